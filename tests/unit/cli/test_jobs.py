"""jobs, job, retry and cancel on a real queue."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stenosis_node.domain import (
    BundleIdentity,
    BundleStatus,
    CanalNotFound,
    CordSlice,
    DocumentKind,
    Grade,
    GradedSlice,
    JobState,
    NotGradable,
    PixelBox,
    SeriesFindings,
    SliceRef,
    StudyFindings,
    Unreadable,
)
from stenosis_node.jobs import DocumentRow, JobStore, PeerSpec
from stenosis_node.spool import Spool
from tests.unit.cli.conftest import NOON, Run, documents, later, receive, study_uid
from tests.unit.completeness import claim_complete

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


def test_a_held_job_waits_until_it_is_let_go(run: Run, config: Path, store: JobStore) -> None:
    assert run("hold", "5", "--why", "which patient?", "-c", config).out == (
        "job 5 is held in state received; 'stenosis-node unhold 5' lets it go on\n"
    )
    assert run("hold", "5", "-c", config).out == "job 5 is held already\n"
    shown = run("job", "5", "-c", config).out
    assert "held" in shown
    assert "hold by an administrator: which patient?" in shown
    held = run("job", "5", "--json", "-c", config).json["job"]
    assert held["held"] is True
    assert run("unhold", "5", "--json", "-c", config).json["held"] is False
    assert run("unhold", "5", "-c", config).out == "job 5 is not held\n"
    assert run("hold", "99", "-c", config).code == 3


def test_many_jobs_need_little_time(spawn: Run, config: Path, store: JobStore) -> None:
    for number in range(10, 60):
        receive(store, number)
    cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = spawn("jobs", "-c", config)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.code == 0
    assert len([line for line in done.out.splitlines() if " received " in line]) == 50
    assert spent.ru_utime - cpu.ru_utime < 2.5  # torch alone would take longer


# --------------------------------------------------------------------------- what was found

REF = SliceRef("1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.3", None)
BOX = PixelBox(1, 2, 3, 4)
SCORES = dict.fromkeys(Grade, 0.25)
FOUND = (
    CordSlice(REF, 0, BOX, 0.9, 0.9),
    GradedSlice(REF, 0, BOX, 0.9, 0.9, Grade.A, SCORES),
    GradedSlice(REF, 0, BOX, 0.9, 0.9, Grade.A, SCORES),
    GradedSlice(REF, 0, BOX, 0.9, 0.9, Grade.C, SCORES),
    NotGradable(REF, 1, "low score", BOX, 0.9),
    CanalNotFound(REF, 1, 0.2),
    Unreadable(REF, 1, "cut short"),
)


@pytest.fixture
def found(config: Path, tmp_path: Path) -> None:
    """The findings behind the results of the queue."""
    bundle = BundleIdentity("b", "1", BundleStatus.DEMONSTRATION, "d" * 64, "tests")
    findings = StudyFindings(study_uid(1), (SeriesFindings("1.2", FOUND),), bundle, "0")
    Spool(tmp_path / "spool").put_findings("c" * 64, findings.to_json())


@pytest.mark.usefixtures("found")
def test_job_counts_the_slices_of_a_result(run: Run, config: Path) -> None:
    text = " ".join(run("job", "1", "-c", config).out.split())
    counts = "3 graded (A 2, C 1); 1 cord; 1 canal not found; 1 not gradable: low score; 1 unreadable: cut short"
    assert f"Slices: {counts}" in text
    assert run("job", "1", "-c", config, "--json").json["results"][0]["slices"] == {
        "graded": {"A": 2, "B": 0, "C": 1, "D": 0},
        "cord": 1,
        "canal_not_found": 1,
        "not_gradable": {"low score": 1},
        "unreadable": {"cut short": 1},
    }


@pytest.mark.usefixtures("found")
def test_jobs_shows_the_worst_grade_and_what_has_none(run: Run, config: Path) -> None:
    rows = _rows(run("jobs", "-c", config).out)
    said = [" ".join(line[76:].strip() for line in part) for part in rows]
    assert said[-1] == "worst grade C, 1 canal not found, 1 not gradable, 1 unreadable"
    assert "worst grade" not in said[1]  # failed in grading


def test_findings_that_were_deleted_are_said_to_be(run: Run, config: Path) -> None:
    assert "not stored here any more" in run("job", "1", "-c", config).out
    assert run("job", "1", "-c", config, "--json").json["results"][0]["slices"] is None


def test_alternatives_of_the_report_are_not_counted_as_documents(run: Run, config: Path, store: JobStore) -> None:
    job_id = receive(store, 6)
    lease = claim_complete(store, now=later(3600))
    assert lease is not None
    rows = [
        DocumentRow(
            sop_instance_uid=f"2.25.{number}",
            sop_class_uid=f"1.2.840.10008.5.1.4.1.1.88.{sr}",
            series_instance_uid="2.25.9",
            kind=DocumentKind.SR,
        )
        for number, sr in ((1, 22), (2, 34), (3, 33))
    ]
    peers = [PeerSpec("pacs"), PeerSpec("second")]
    made = [*documents(7)[:2], *rows]
    store.advance_graded(lease, result_key="a" * 64, chosen_key="b" * 64, documents=made, peers=peers)
    text = " ".join(run("job", job_id, "-c", config).out.split())
    assert "3 documents for 2 peers" in text
    assert "3 documents (1 sc, 1 sc-overview, 1 sr; the report also in 2 other SOP classes)" in text
    (result,) = run("job", job_id, "-c", config, "--json").json["results"]
    assert len(result["documents"]) == 3
    assert "2.25.2" in {row["sop_instance_uid"] for row in result["documents"]}
    assert [row["sop_instance_uid"] for row in result["alternatives"]] == ["2.25.3", "2.25.1"]


# --------------------------------------------------------------------------- retry, and before the first serve


def test_retry_of_a_job_that_waits_in_delivery_says_what_happens_now(run: Run, config: Path, store: JobStore) -> None:
    run("retry", "2", "-c", config)
    now = datetime.now(UTC)
    lease = store.claim_delivery("pacs", worker="deliver-1", lease_s=60, max_attempts=3, now=now)
    assert lease is not None
    store.retry_delivery_later(lease, retry_at=now + timedelta(hours=1), sentence="away", max_attempts=3, now=now)
    assert run("retry", "2", "-c", config).out == "job 2 is graded: delivery is tried again now\n"


@pytest.mark.parametrize("verb", ["job", "retry", "cancel"])
def test_before_the_first_serve_there_is_no_job(run: Run, config: Path, tmp_path: Path, verb: str) -> None:
    config.write_text(config.read_text(encoding="utf-8").replace('"spool"', '"new"'), encoding="utf-8")
    done = run(verb, "1", "-c", config)
    assert done.code == 3
    assert "start 'stenosis-node serve' once" in done.err
    assert not (tmp_path / "new").exists()


def test_before_the_first_serve_the_list_is_empty(run: Run, config: Path) -> None:
    config.write_text(config.read_text(encoding="utf-8").replace('"spool"', '"new"'), encoding="utf-8")
    done = run("jobs", "-c", config)
    assert (done.code, done.out) == (0, "")
    assert "no job database yet" in done.err
    assert run("jobs", "-c", config, "--json").json == {"jobs": []}
