"""Commands that change something, or show or export results, are recorded with who gave them, or not carried out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stenosis_node.cli.options import CONFIG_ENV, load_config
from stenosis_node.config import Config
from stenosis_node.errors import ConfigError, NodeError

if TYPE_CHECKING:
    from stenosis_node.audit import AuditTrail, StudyPart
    from stenosis_node.jobs import JobDetail, JobStore


@contextmanager
def audited(config: Config, what: str, parts: Iterable[StudyPart] = ()) -> Iterator[None]:
    """Record that this is begun, then that it was done, or failed. Raises CannotAudit before anything is done.

    A command that is killed in between may have changed something: the first message stands alone then.

    what   the command as a sentence
    parts  the studies it is about
    """
    from stenosis_node.audit import AuditTrail

    trail = AuditTrail(config)
    studies = tuple(parts)
    trail.write(trail.events.administered(what, studies, begun=True))
    try:
        yield
    except BaseException as error:
        failure = str(error) if isinstance(error, NodeError) else f"interrupted ({type(error).__name__})"
        trail.record(trail.events.administered(what, studies, failure=failure))
        raise
    trail.write(trail.events.administered(what, studies))


def of_job(store: JobStore, config: Config, detail: JobDetail) -> StudyPart:
    """The study of a job."""
    from stenosis_node.work.auditing import part_of

    return part_of(detail.job.study_instance_uid, store.instances(detail.job.id), config.spool)


def record_viewed(studies: Mapping[str, Path], given: Path | None = None) -> None:
    """Record that somebody looked at these studies, where there is a node on this machine.

    studies  Study Instance UID to a file of the study
    given    the configuration on the command line
    raises   CannotAudit
    """
    trail = _trail_of_node(given)
    if trail is not None:
        from stenosis_node.audit import StudyPart, patient_of

        trail.write(*(trail.events.viewed(StudyPart(uid, patient_of(path))) for uid, path in studies.items()))


def _trail_of_node(given: Path | None) -> AuditTrail | None:
    """The audit stream of the node of this machine; None where none is configured, or it never ran."""
    from stenosis_node.audit import AuditTrail

    named = given or (Path(os.environ[CONFIG_ENV]) if CONFIG_ENV in os.environ else None)
    try:
        config = load_config(named)
    except ConfigError:
        return None
    return AuditTrail(config) if config.spool.is_dir() else None
