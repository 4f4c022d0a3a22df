"""Files that a crash left without a row: complete, since they are flushed before they get their name, but unknown.

Their sender got no Success and normally sends them again. When it does not, they would stay for ever, and a study would
lack a slice that lies on our disk. So the node looks for them now and then and takes them in as received.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from stenosis_node.config import Config
from stenosis_node.domain import ReceivedInstance
from stenosis_node.errors import PermanentError
from stenosis_node.jobs import BeingDeleted, JobStore
from stenosis_node.spool import UID, Spool
from stenosis_node.wire.part10 import UnreadableFile, read_file_meta

log = logging.getLogger("stenosis_node.work.adopt")

RECOVERED: Final = "(RECOVERED)"
"""Stands for the calling AE title, which only the lost row would have held."""
BATCH: Final = 500


def adopt(config: Config, spool: Spool, store: JobStore, *, before: datetime) -> int:
    """Give every instance in the spool that has no row its row; returns how many there were.

    before  files written later belong to receptions under way
    raises  TransientError when disk or database fail; what was adopted until then stays
    """
    adopted = 0
    for batch in batches(spool.iter_instances()):
        known = store.known_paths(batch)
        lost = [_received(spool, path, before) for path in batch if path.as_posix() not in known]
        adopted += _take_in(config, store, [received for received in lost if received is not None])
    if adopted:
        log.warning(
            "%d instances that a crash had left without a row are taken in as received", adopted,
            extra={"event": "adopted"},
        )  # fmt: skip
    return adopted


def _take_in(config: Config, store: JobStore, found: list[ReceivedInstance]) -> int:
    """How many got their rows: all at once, or one by one when one of them is to blame that it does not go."""
    if not found:
        return 0
    try:
        store.touch_many(
            [(received, False) for received in found],
            quiet_period_s=config.jobs.quiet_period_s,
            ceiling_s=config.jobs.ceiling_s,
        )
    except (PermanentError, BeingDeleted) as error:
        if len(found) > 1:
            return sum(_take_in(config, store, [one]) for one in found)
        log.warning("%s has no row and cannot get one (%s)", found[0].path.name, error, extra={"event": "not_adopted"})
        return 0
    return len(found)


def batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while batch := list(islice(paths, BATCH)):
        yield batch


def is_at_home(relative: Path) -> bool:
    """Whether a path, relative to the spool, is instances/<study>/<series>/<sop>.dcm."""
    names = (*relative.parts[1:-1], relative.stem)
    return len(relative.parts) == 4 and relative.suffix == ".dcm" and all(map(UID.fullmatch, names))


def _received(spool: Spool, relative: Path, before: datetime) -> ReceivedInstance | None:
    """None for a file that is gone, too young or damaged."""
    path = spool.instance_path(relative)
    if not is_at_home(relative):
        log.warning("%s is not where an instance is kept: see fsck", relative.name, extra={"event": "not_adopted"})
        return None
    try:
        if datetime.fromtimestamp(path.stat().st_mtime, UTC) >= before:
            return None
        meta = read_file_meta(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = path.stat().st_size
    except FileNotFoundError:
        return None
    except (OSError, UnreadableFile) as error:
        log.warning(
            "%s has no row and cannot be read (%s): send the study again", relative.name, type(error).__name__,
            extra={"event": "not_adopted"},
        )  # fmt: skip
        return None
    return ReceivedInstance(
        study_instance_uid=relative.parts[-3],
        series_instance_uid=relative.parts[-2],
        sop_instance_uid=relative.stem,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        path=relative,
        size_bytes=size_bytes,
        sha256=digest,
        calling_ae_title=RECOVERED,
        received_at=datetime.now(UTC),
    )
