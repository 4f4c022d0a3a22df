"""``jobs``, ``job``, ``retry``, ``cancel``: what an administrator asks of the queue and does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from stenosis_node.cli.job_text import follow_line, job_sections, jobs_table
from stenosis_node.cli.options import AsJson, ConfigPath, load_config
from stenosis_node.cli.outcome import NotFound
from stenosis_node.cli.output import complain, plain, print_json, say, show
from stenosis_node.config import Config
from stenosis_node.domain import JobState
from stenosis_node.errors import ConfigError

if TYPE_CHECKING:
    from stenosis_node.jobs import JobDetail, JobStore, JobSummary

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
    with open_store(load_config(config)) as store:
        found = store.list_jobs(states=state or None, study=study, limit=limit)
        if follow:
            for summary in _changes(store, states=state, study=study, limit=limit):
                if as_json:
                    print_json(summary, indent=None)
                else:
                    say(follow_line(summary))
        elif as_json:
            print_json({"jobs": plain(found)})
        elif found:
            show(jobs_table(found))
        else:
            complain("no jobs" if state is None and study is None else "no jobs match")


def job(name: JobName, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Show everything known about one job: steps, series and why, what was sent, what the peer answered."""
    with open_store(load_config(config)) as store:
        detail = find_job(store, name)
    if as_json:
        print_json(detail)
        return
    for section in job_sections(detail):
        if isinstance(section, str):
            say(section)
        else:
            show(section)


def retry(name: JobName, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Try again now, from where the job stopped. A complete result is never graded again."""
    with open_store(load_config(config)) as store:
        detail = find_job(store, name)
        state = store.retry(detail.job.id)
    _confirm(detail, state, as_json)


def cancel(name: JobName, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """Stop a job. What was delivered stays delivered; `retry` undoes it."""
    with open_store(load_config(config)) as store:
        detail = find_job(store, name)
        store.cancel(detail.job.id)
    _confirm(detail, JobState.CANCELLED, as_json)


@contextmanager
def open_store(config: Config) -> Iterator[JobStore]:
    """The job database, which only `serve` creates. Raises ConfigError when it is not there yet."""
    if config.jobs.database_url is None and not (config.spool / "jobs.db").exists():
        raise ConfigError(f"{config.spool} holds no job database yet; start 'stenosis-node serve' once")
    from stenosis_node.jobs import JobStore

    store = JobStore(config.database_url)
    try:
        yield store
    finally:
        store.close()


def find_job(store: JobStore, name: str) -> JobDetail:
    """A job by number or Study Instance UID. Raises NotFound."""
    detail = store.job(name)
    if detail is None:
        raise NotFound(f"no job {name}; 'stenosis-node jobs' lists them")
    return detail


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
