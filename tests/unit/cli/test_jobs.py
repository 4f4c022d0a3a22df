"""jobs, job, retry and cancel on a real queue."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from stenosis_node.domain import JobState
from stenosis_node.jobs import JobStore
from tests.unit.cli.conftest import NOON, Run, receive, study_uid

pytestmark = pytest.mark.usefixtures("filled")


def test_jobs_lists_newest_first_with_state_and_reason(run: Run, config: Path) -> None:
    done = run("jobs", "-c", config)
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:2] for row in rows] == [
        ["5", "received"],
        ["4", "failed"],
        ["3", "rejected"],
        ["2", "failed"],
        ["1", "delivered"],
    ]
    said = [" ".join(line[76:].strip() for line in part) for part in _rows(done.out)]
    assert said[1:4] == [
        "in grade: the bundle does not fit",
        "no-candidate: no axial T2 series",
        "in deliver: delivery to pacs failed: PACS refused the Structured Report: 0xA900",
    ]


def _rows(out: str) -> list[list[str]]:
    """The lines of each row of a table whose first column is a number."""
    rows: list[list[str]] = []
    for line in out.splitlines()[2:]:
        if line[:4].strip():
            rows.append([])
        rows[-1].append(line)
    return rows


def test_jobs_fits_100_columns_without_colour_codes(run: Run, config: Path) -> None:
    out = run("jobs", "-c", config).out
    assert max(len(line) for line in out.splitlines()) <= 100
    assert "\x1b" not in out


def test_jobs_json_has_every_fact_of_the_summary(run: Run, config: Path) -> None:
    listed = run("jobs", "-c", config, "--json").json["jobs"]
    assert [job["id"] for job in listed] == [5, 4, 3, 2, 1]
    first = listed[-1]
    assert first["state"] == "delivered"
    assert first["study_instance_uid"] == study_uid(1)
    assert first["n_instances"] == 3
    assert datetime.fromisoformat(first["created_at"]) == NOON


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        (["--state", "failed"], [4, 2]),
        (["--state", "failed", "--state", "rejected"], [4, 3, 2]),
        (["--limit", "2"], [5, 4]),
        (["--study", study_uid(3)], [3]),
        (["--study", "1.2.3"], []),
    ],
)
def test_jobs_filters(run: Run, config: Path, filters: list[str], ids: list[int]) -> None:
    done = run("jobs", "-c", config, "--json", *filters)
    assert (done.code, [job["id"] for job in done.json["jobs"]]) == (0, ids)


def test_jobs_refuses_an_unknown_state(run: Run, config: Path) -> None:
    done = run("jobs", "-c", config, "--state", "running")
    assert done.code == 2
    assert "running" in done.err


def test_follow_prints_changes_as_json_lines_until_interrupted(config: Path, store: JobStore) -> None:
    command = [sys.executable, "-m", "stenosis_node", "jobs", "--follow", "--json", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(5)]
        store.cancel(5)
        changed = process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=20)
    assert '"id": 1' in seen[0]
    assert '"state": "cancelled"' in changed
    assert '"id": 5' in changed
    assert rest == ""
    assert process.returncode == 130
    assert "Traceback" not in err


def test_job_tells_the_whole_story(run: Run, config: Path) -> None:
    done = run("job", "1", "-c", config)
    assert done.code == 0
    text = " ".join(done.out.split())
    assert "Job 1: delivered since" in text
    assert study_uid(1) in text
    assert "axial-t2-lumbar" in text
    assert "axial, T2, lumbar" in text
    assert "Delivery of revision 1 to pacs: delivered" in text
    assert "0x0000 Success" in text
    for step in ("opened", "claimed", "graded", "delivery-started", "delivered"):
        assert step in text
    assert max(len(line) for line in done.out.splitlines()) <= 100


def test_job_shows_what_the_peer_refused(run: Run, config: Path) -> None:
    text = " ".join(run("job", "2", "-c", config).out.split())
    assert "In deliver: delivery to pacs failed: PACS refused the Structured Report: 0xA900" in text
    assert "sr 1 0xA900 SOP Class" in text


def test_job_json(run: Run, config: Path) -> None:
    detail = run("job", "1", "-c", config, "--json").json
    assert detail["job"]["id"] == 1
    assert detail["series"][0]["reason"] == "axial-t2-lumbar"
    assert detail["series"][0]["values"] == {"TR": "3500"}
    assert [d["kind"] for d in detail["results"][0]["documents"]] == ["sc-overview", "sc", "sr"]
    assert {r["status"] for r in detail["deliveries"][0]["receipts"]} == {0}
    assert detail["events"][0]["kind"] == "opened"


def test_job_by_study_instance_uid(run: Run, config: Path) -> None:
    assert run("job", study_uid(3), "-c", config, "--json").json["job"]["id"] == 3


@pytest.mark.parametrize("verb", ["job", "retry", "cancel"])
@pytest.mark.parametrize("name", ["99", "1.2.3", "no-such", "9" * 30])
def test_a_job_that_is_not_there_gives_3(run: Run, config: Path, verb: str, name: str) -> None:
    done = run(verb, name, "-c", config)
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert name in done.err


def test_retry_goes_back_to_the_last_durable_fact(run: Run, config: Path, store: JobStore) -> None:
    assert run("retry", "2", "-c", config).out == "job 2: failed -> graded\n"
    assert run("retry", "4", "-c", config, "--json").json == {
        "id": 4,
        "study_instance_uid": study_uid(4),
        "state": "received",
    }
    states = {job.id: job.state for job in store.list_jobs()}
    assert (states[2], states[4]) == (JobState.GRADED, JobState.RECEIVED)


def test_retry_of_a_delivered_job_gives_1_and_says_why(run: Run, config: Path) -> None:
    done = run("retry", "1", "-c", config)
    assert done.code == 1
    assert "nothing to retry" in done.err


def test_cancel_and_cancel_again(run: Run, config: Path, store: JobStore) -> None:
    assert run("cancel", "5", "-c", config).out == "job 5: received -> cancelled\n"
    assert store.list_jobs(limit=1)[0].state is JobState.CANCELLED
    again = run("cancel", "5", "-c", config)
    assert again.code == 1
    assert "already" in again.err


def test_many_jobs_need_little_time(spawn: Run, config: Path, store: JobStore) -> None:
    for number in range(10, 60):
        receive(store, number)
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = spawn("jobs", "-c", config)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.code == 0
    assert len([line for line in done.out.splitlines() if " received " in line]) == 50
    assert spent.ru_utime - cpu.ru_utime < 2.5  # torch alone would take longer
