"""``stenosis-node recall``: withdraw exactly what was delivered."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenosis_node.cli.audited import audited, of_job
from stenosis_node.cli.jobs import NoDatabase, open_store
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound
from stenosis_node.cli.output import plain, print_json, say, show, table
from stenosis_node.errors import ConfigError

if TYPE_CHECKING:
    from stenosis_node.jobs import JobDetail, JobStore, RecallTarget
    from stenosis_node.work.recall import Withdrawal


def recall(
    job: Annotated[
        str | None, typer.Option(help="Every result of this job: number or Study Instance UID.", metavar="JOB")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="Every result of this weights bundle: name, 'name version' or digest.", metavar="BUNDLE"),
    ] = None,
    why: Annotated[str, typer.Option(help="A sentence for the rejection note and the job.", metavar="TEXT")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw results from every peer that has them, and never deliver them again. May run beside `serve`."""
    if (job is None) == (bundle is None):
        raise ConfigError("recall needs either --job or --bundle")
    settings = load_config(config)
    from stenosis_node.spool import Spool
    from stenosis_node.work import recall as work

    try:
        with open_store(settings) as store:
            spool = Spool(settings.spool)
            targets = store.recallable(job_id=_job_id(store, job), bundle=bundle)
            planned = work.plan(targets, settings, spool)
            if not planned:
                raise NotFound("nothing to recall: no such result was delivered, or waits to be")
            if not as_json:
                _print(planned)
            if not dry_run:
                _ask(planned, yes=yes)
                sentence = " ".join(why.split()) or "by an administrator"
                parts = [of_job(store, settings, detail) for detail in _details(store, planned)]
                with audited(settings, f"recall of {job or bundle}: {sentence}", parts):
                    planned = work.recall(planned, why=sentence, config=settings, spool=spool, store=store)
    except NoDatabase as error:
        raise NotFound(f"nothing to recall: {error}") from None
    if as_json:
        print_json({"done": not dry_run, "withdrawals": [_json(one) for one in planned]})
    elif dry_run:
        say("Nothing was done")
    else:
        say("Recalled; 'stenosis-node job' shows when each peer has its note")


def _details(store: JobStore, planned: Sequence[Withdrawal]) -> Iterator[JobDetail]:
    """Each job once."""
    for job_id in dict.fromkeys(one.target.job_id for one in planned):
        detail = store.job(job_id)
        if detail is not None:
            yield detail


def _job_id(store: JobStore, name: str | None) -> int | None:
    if name is None:
        return None
    detail = store.job(name)
    if detail is None:
        raise NotFound(f"no job {name}; 'stenosis-node jobs' lists them")
    return detail.job.id


def _ask(planned: Sequence[Withdrawal], *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("recall asks before it does anything: add --yes where nobody can answer, or --dry-run")
    studies = len({one.target.job_id for one in planned})
    typer.confirm(f"Withdraw these results of {studies} {'study' if studies == 1 else 'studies'}?", abort=True)


def _print(planned: Sequence[Withdrawal]) -> None:
    from stenosis_node.work.recall import Means

    rows = (
        (
            str(one.target.job_id),
            str(one.target.revision),
            one.target.peer,
            str(len(one.target.documents)),
            one.means.value,
            one.because,
        )
        for one in planned
    )
    show(table((">Job", ">Revision", "=Peer", ">Documents", "=How", "Why"), rows))
    for one in planned:
        if one.means is Means.BY_HAND:
            _list(f"To delete at {one.target.peer}", one.target, [d.sop_instance_uid for d in one.target.documents])
        unsure = [document.sop_instance_uid for document in one.target.unanswered]
        _list(f"May be at {one.target.peer}, which did not answer; to delete by hand", one.target, unsure)
    counts = Counter(one.means.value for one in planned)
    say(", ".join(f"{number} {means}" for means, number in counts.items()))


def _list(heading: str, target: RecallTarget, uids: Sequence[str]) -> None:
    if uids:
        say(f"{heading}, study {target.study_instance_uid}:")
        for uid in uids:
            say(f"  {uid}")


def _json(one: Withdrawal) -> dict[str, Any]:
    fields: dict[str, Any] = plain(one.target)
    return {"means": one.means, "because": one.because, **fields}
