"""``jobs``, ``job``, ``retry``, ``cancel``: what an administrator asks of the queue and does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stenosis_node.cli.audited import audited, of_job
from stenosis_node.cli.findings import Outcomes, read_outcomes
from stenosis_node.cli.job_text import follow_line, job_sections, jobs_table
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound
from stenosis_node.cli.output import complain, plain, print_json, say, show
from stenosis_node.config import Config
from stenosis_node.domain import JobState
from stenosis_node.errors import ConfigError

if TYPE_CHECKING:
    from stenosis_node.jobs import JobDetail, JobStore, JobSummary, ResultSummary

POLL_S = 1.0

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Number of the job, or its Study Instance UID.")]


def jobs(
    state: Annotated[
        list[JobState] | None, typer.Option(help="Only jobs in this state. May be given more than once.")
    ] = None,
    study: Annotated[str | None, typer.Option(help="Only the job of this Study Instance UID.", metavar="UID")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing what changes, until Ctrl-C.")] = False,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """List the jobs, newest first."""
    settings = load_config(config)
    with suppress(NoDatabase), open_store(settings) as store:
        _list(store, settings, state, study, limit, follow=follow, as_json=as_json)
        return
    if as_json:
        print_json({"jobs": []})
    complain(f"no jobs: {settings.spool} holds no job database yet; 'stenosis-node serve' makes it")


def _list(
    store: JobStore,
    settings: Config,
    state: list[JobState] | None,
    study: str | None,
    limit: int,
    *,
    follow: bool,
    as_json: bool,
) -> None:
    found = store.list_jobs(states=state or None, study=study, limit=limit)
    if follow:
        for summary in _changes(store, states=state, study=study, limit=limit):
            if as_json:
                print_json(summary, indent=None)
            else:
                say(follow_line(summary, _headline(summary, store, settings)))
    elif as_json:
        print_json({"jobs": plain(found)})
    elif found:
        headlines = {summary.id: _headline(summary, store, settings) for summary in found}
        show(jobs_table(found, {number: text for number, text in headlines.items() if text}))
    else:
        complain("no jobs" if state is None and study is None else "no jobs match")


def job(name: JobName, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Show everything known about one job: steps, series and why, what was sent, what the peer answered."""
    settings = load_config(config)
    with open_job(settings, name) as (_, detail):
        outcomes = {result.chosen_key: read_outcomes(settings.spool, result.chosen_key) for result in detail.results}
    if as_json:
        print_json({**plain(detail), "results": [_result_json(result, outcomes) for result in detail.results]})
        return
    for section in job_sections(detail, outcomes):
        if isinstance(section, str):
            say(section)
        else:
            show(section)


def retry(
    name: Annotated[
        str | None, typer.Argument(metavar="[JOB]", help="Number of the job, or its Study Instance UID.")
    ] = None,
    peer: Annotated[
        str | None, typer.Option(help="Instead of a job: everything that was given up for this peer.", metavar="PEER")
    ] = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Try again now, from where the job stopped. A complete result is never graded again."""
    settings = load_config(config)
    if peer is not None and name is None:
        _retry_peer(peer, settings, as_json)
        return
    if name is None or peer is not None:
        raise ConfigError("retry needs either a job or --peer")
    with (
        open_job(settings, name) as (store, detail),
        audited(settings, f"retry job {detail.job.id}", [of_job(store, settings, detail)]),
    ):
        state = store.retry(detail.job.id)
    if as_json or state is not detail.job.state:
        _confirm(detail, state, as_json)
        if detail.results and detail.results[-1].withdrawn_at is not None and state is JobState.RECEIVED:
            complain("its result was recalled: what is graded now is delivered as a new revision")
    elif state is JobState.CANCELLED:
        say(f"job {detail.job.id} stays {state}: its rejection notes are sent again; the recalled result never is")
    else:
        step = "grading" if state is JobState.RECEIVED else "delivery"
        say(f"job {detail.job.id} is {state}: {step} is tried again now")


def _retry_peer(peer: str, settings: Config, as_json: bool) -> None:
    with open_store(settings) as store:
        found = next((one for one in store.peers() if one.name == peer), None)
        if found is None and peer not in settings.peers:
            raise NotFound(f"no peer {peer!r}; 'stenosis-node peers' lists them")
        with audited(settings, f"retry everything that was given up for peer {peer}"):
            number = store.retry_peer(peer)
    if as_json:
        print_json({"peer": peer, "retried": number, "paused": found is not None and found.paused})
        return
    what = "1 delivery or withdrawal is" if number == 1 else f"{number} deliveries and withdrawals are"
    say(f"{peer}: {what} tried again now" if number else f"{peer}: nothing was given up")
    if found is not None and found.paused:
        complain(f"{peer} is paused: nothing is sent to it until 'stenosis-node resume {peer}'")


def cancel(name: JobName, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Stop a job, or what a delivered one still has to send. What was delivered stays delivered; `retry` undoes it."""
    settings = load_config(config)
    with (
        open_job(settings, name) as (store, detail),
        audited(settings, f"cancel job {detail.job.id}", [of_job(store, settings, detail)]),
    ):
        store.cancel(detail.job.id)
    was = detail.job.state
    is_over = was in (JobState.DELIVERED, JobState.REJECTED, JobState.CANCELLED)
    if is_over and not as_json:
        say(f"job {detail.job.id} stays {was}; what its peers do not have yet, and what they must delete, is given up")
    else:
        _confirm(detail, was if is_over else JobState.CANCELLED, as_json)


def hold(
    name: JobName,
    why: Annotated[str | None, typer.Option(help="Stands in the events of the job.")] = None,
    config: ConfigPath = None,
    as_json: AsJson = False,
) -> None:
    """Keep a job as it is: nothing of it is graded or sent until `unhold`. What is under way is finished."""
    _set_held(name, config, why, as_json, held=True)


def unhold(name: JobName, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Let a held job go on."""
    _set_held(name, config, None, as_json, held=False)


def _set_held(name: str, config: ConfigPath, why: str | None, as_json: bool, *, held: bool) -> None:
    settings = load_config(config)
    what, reason = "hold" if held else "unhold", f": {why}" if why else ""
    with (
        open_job(settings, name) as (store, detail),
        audited(settings, f"{what} job {detail.job.id}{reason}", [of_job(store, settings, detail)]),
    ):
        change = store.hold if held else store.unhold
        changed = change(detail.job.id, sentence=f"{what} by an administrator{reason}")
    job = detail.job
    if as_json:
        print_json({"id": job.id, "study_instance_uid": job.study_instance_uid, "state": job.state, "held": held})
    elif not changed:
        say(f"job {job.id} is held already" if held else f"job {job.id} is not held")
    elif held:
        say(f"job {job.id} is held in state {job.state}; 'stenosis-node unhold {job.id}' lets it go on")
    else:
        say(f"job {job.id} goes on")


class NoDatabase(ConfigError):
    """There is no job database yet: `serve` has never run."""


@contextmanager
def open_store(config: Config) -> Iterator[JobStore]:
    """The job database, which only `serve` creates. Raises NoDatabase when it is not there yet, ConfigError."""
    if config.jobs.database_url is None:
        try:
            (config.spool / "jobs.db").stat()
        except PermissionError:
            raise ConfigError(
                f"this user may not read {config.spool}; run the command as the user of the node, "
                "such as with 'sudo -u stenosis-node'"
            ) from None
        except OSError:
            raise NoDatabase(f"{config.spool} holds no job database yet; start 'stenosis-node serve' once") from None
    from stenosis_node.jobs import JobStore

    store = JobStore(config.database_url)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def open_job(config: Config, name: str) -> Iterator[tuple[JobStore, JobDetail]]:
    """The database and a job in it, by number or Study Instance UID. Raises NotFound."""
    try:
        with open_store(config) as store:
            detail = store.job(name)
            if detail is None:
                raise NotFound(f"no job {name}; 'stenosis-node jobs' lists them")
            yield store, detail
    except NoDatabase as error:
        raise NotFound(f"no job {name}: {error}") from None


def _headline(job: JobSummary, store: JobStore, config: Config) -> str | None:
    """What was found in the latest result of a job, in a few words; None without one."""
    if job.state not in (JobState.GRADED, JobState.DELIVERED) and job.failed_in != "deliver":
        return None
    detail = store.job(job.id)
    latest = detail.results[-1:] if detail is not None else ()
    outcomes = [read_outcomes(config.spool, result.chosen_key) for result in latest]
    return next((found.headline() for found in outcomes if found is not None), None)


def _result_json(result: ResultSummary, outcomes: Mapping[str, Outcomes | None]) -> dict[str, Any]:
    from stenosis_node.jobs import split_alternatives

    documents, alternatives = split_alternatives(result.documents)
    counted = {"documents": documents, "alternatives": alternatives, "slices": outcomes[result.chosen_key]}
    return {**plain(result), **plain(counted)}


def _confirm(detail: JobDetail, state: JobState, as_json: bool) -> None:
    if as_json:
        print_json({"id": detail.job.id, "study_instance_uid": detail.job.study_instance_uid, "state": state})
    else:
        say(f"job {detail.job.id}: {detail.job.state} -> {state}")


def _changes(store: JobStore, *, states: list[JobState] | None, study: str | None, limit: int) -> Iterator[JobSummary]:
    """Each job once, oldest first, then again whenever it changes; a lease that is only renewed is no change."""
    seen: dict[int, JobSummary] = {}
    while True:
        for summary in reversed(store.list_jobs(states=states or None, study=study, limit=limit)):
            fact = replace(summary, lease_until=None)
            if seen.get(summary.id) != fact:
                seen[summary.id] = fact
                yield summary
        time.sleep(POLL_S)
