"""``stenosis-node pull``: grade a study that a peer has, without waiting for it to be routed."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from stenosis_node.cli.audited import audited
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound, PeerUnreachable
from stenosis_node.cli.output import complain, plain, print_json, say
from stenosis_node.cli.probe import find_peer
from stenosis_node.cli.progress import progress
from stenosis_node.config import Config
from stenosis_node.domain import JobState
from stenosis_node.errors import PermanentError

if TYPE_CHECKING:
    from stenosis_node.jobs import JobStore, JobSummary
    from stenosis_node.work.pull import Pulled

POLL_S = 0.5


def _uid(text: str) -> str:
    if not re.fullmatch(r"[0-9][0-9.]{0,63}", text):  # a wildcard would ask for every study
        raise typer.BadParameter("a Study Instance UID has digits and dots, at most 64")
    return text


def pull(
    study: Annotated[str, typer.Option(help="Study Instance UID.", metavar="UID", callback=_uid)],
    peer: Annotated[str, typer.Option("--from", help="Name of the peer in the configuration.", metavar="PEER")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the job is over; its outcome is ours.")] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Fetch the MR images of a study from a peer and have them graded. What was graded before is not again."""
    settings = load_config(config)
    find_peer(settings, peer)
    from stenosis_node.jobs import JobStore

    store = JobStore(settings.database_url)
    try:
        pulled = _pull(settings, store, peer, study, quiet=as_json)
        job = _job(store, study)
        if job is not None and not as_json:
            say(_said(pulled, job, peer))
        if wait and job is not None:
            job = _wait(settings, store, study, quiet=as_json)
    finally:
        store.close()
    if as_json:
        facts = None if job is None else {"id": job.id, "state": job.state, "message": job.message}
        print_json({"study_instance_uid": study, "peer": peer, **plain(pulled), "job": plain(facts)})
    if wait and job is not None and job.state in (JobState.FAILED, JobState.CANCELLED):
        raise PermanentError(f"job {job.id} is {job.state}" + (f": {job.message}" if job.message else ""))


def _pull(settings: Config, store: JobStore, peer: str, study: str, *, quiet: bool) -> Pulled:
    from stenosis_node.audit import StudyPart
    from stenosis_node.query import PeerAway
    from stenosis_node.spool import Spool
    from stenosis_node.work.pull import check_pull, pull_study

    check_pull(peer, settings)
    spool = Spool(settings.spool)
    store.migrate()
    try:
        with (
            audited(settings, f"pull from peer {peer}", [StudyPart(study, patient_id="")]),
            progress("fetching images", "fetched {done} of {total} images", quiet=quiet) as told,
        ):
            pulled = pull_study(settings, spool, store, peer, study, progress=told)
    except PeerAway as error:
        raise PeerUnreachable(f"{peer}: {error}") from error
    if pulled.known == 0:
        raise NotFound(f"{peer} has no MR images of study {study}")
    return pulled


def _job(store: JobStore, study: str) -> JobSummary | None:
    found = store.job(study)
    return None if found is None else found.job


def _said(pulled: Pulled, job: JobSummary, peer: str) -> str:
    if pulled.wanted == 0:
        again = (
            f"; 'stenosis-node retry {job.id}' tries again"
            if job.state in (JobState.FAILED, JobState.CANCELLED)
            else ""
        )
        return f"job {job.id} is {job.state}: all {pulled.known} images {peer} has were received before{again}"
    short = "" if pulled.came == pulled.wanted else f" of {pulled.wanted}"
    return f"job {job.id}: {pulled.came}{short} images came from {peer}; 'stenosis-node job {job.id}' shows the rest"


def _wait(settings: Config, store: JobStore, study: str, *, quiet: bool) -> JobSummary:
    """The job when it is over. PermanentError when nobody works on it."""
    from stenosis_node.spool import holder

    last: JobState | None = None
    while True:
        job = _job(store, study)
        assert job is not None  # noqa: S101  jobs are never deleted
        if job.state not in (JobState.RECEIVED, JobState.GRADED):
            if not quiet:
                say(f"job {job.id} is {job.state}")
            return job
        if holder(settings.spool) is None:
            raise PermanentError(f"job {job.id} is {job.state}, and no 'serve' works on {settings.spool}: start it")
        if job.state is not last and not quiet:
            complain(f"job {job.id} is {job.state}")
            last = job.state
        time.sleep(POLL_S)
