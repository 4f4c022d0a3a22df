"""status, peers, pause, resume, retry --peer and recall on a real queue."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stenosis_node.config import load
from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.jobs import JobStore, PeerSpec
from stenosis_node.spool import Spool
from tests.unit.cli.conftest import Run, deliver, documents, grade, receive, study_uid
from tests.unit.completeness import claim_complete


@pytest.fixture
def config(config: Path, weights: Path) -> Path:
    """With a bundle that is whole."""
    text = config.read_text(encoding="utf-8").replace('bundle = "bundle"', f"bundle = {json.dumps(str(weights))}")
    config.write_text(text, encoding="utf-8")
    return config


@pytest.fixture
def held(config: Path, tmp_path: Path) -> Iterator[int]:
    """The spool is held, as by ``serve``; the port it will listen on."""
    with Spool(tmp_path / "spool").hold():
        yield load(config).receive.port


@pytest.fixture
def running(held: int) -> Iterator[None]:
    """And the port is listened on."""
    with socket.create_server(("127.0.0.1", held)):
        yield


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def about(done: object) -> list[str]:
    return [problem["about"] for problem in done.json["problems"]]  # type: ignore[attr-defined]


# --------------------------------------------------------------------------- status


def test_a_node_that_runs_and_does_its_work_is_healthy(
    run: Run, config: Path, store: JobStore, running: object
) -> None:
    receive(store, 1, images=3, now=ago(60))
    grade(store, now=ago(30))
    deliver(store, now=ago(29))

    done = run("status", "-c", config)

    assert done.code == 0
    assert f"runs, process {os.getpid()}; STENOSIS on 127.0.0.1" in done.out
    assert "1 delivered" in done.out
    assert "3 images" in done.out
    assert "in 24 hours 1 made" in done.out
    assert done.out.rstrip().endswith("Healthy")
    assert max(len(line) for line in done.out.splitlines()) <= 100


def test_a_node_that_cannot_be_reached_by_senders_is_not_healthy(
    run: Run, config: Path, store: JobStore, held: int
) -> None:
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["receiving"])


def test_a_node_that_does_not_run_is_not_healthy(run: Run, config: Path) -> None:
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["node"])
    assert (done.json["running"], done.json["healthy"], done.json["peers"]) == (False, False, [])
    assert not (config.parent / "spool" / "serve.lock").exists()


def test_a_failed_job_and_a_dead_letter_stay_problems_until_they_are_cancelled(
    run: Run, config: Path, filled: JobStore, running: object
) -> None:
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["jobs", "peer pacs"])
    assert done.json["jobs"]["failed"] == 2
    (peer,) = done.json["peers"]
    assert (peer["state"], peer["failed"]) == ("dead-letters", 1)
    text = run("status", "-c", config).out
    assert "2 jobs failed" in text
    assert "1 delivery given up: PACS refused the Structured Report: 0xA900" in " ".join(text.split())

    assert run("cancel", "2", "-c", config).code == 0
    assert about(run("status", "-c", config, "--json")) == ["jobs"]
    assert run("cancel", "4", "-c", config).code == 0
    assert run("status", "-c", config).code == 0


def test_a_peer_that_fails_is_shown_at_once_and_a_problem_after_two_minutes(
    run: Run, config: Path, store: JobStore, running: object
) -> None:
    receive(store, 1, now=ago(600))
    grade(store, now=ago(60))
    lease = store.claim_delivery("pacs", worker="d", lease_s=60, max_attempts=9, now=ago(50))
    assert lease is not None
    store.retry_delivery_later(lease, retry_at=ago(-60), sentence="no answer", max_attempts=9, now=ago(40))
    done = run("status", "-c", config, "--json")
    assert (done.code, done.json["peers"][0]["state"]) == (0, "failing")

    store.pause_peer("pacs", why="moved")
    assert run("status", "-c", config, "--json").json["peers"][0]["state"] == "paused"
    store.resume_peer("pacs")
    receive(store, 2, now=ago(600))
    grade(store, now=ago(300))
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["peer pacs"])
    assert "no answer" in done.json["problems"][0]["sentence"]


def test_results_for_a_peer_that_left_the_configuration_are_a_problem(
    run: Run, config: Path, store: JobStore, running: object
) -> None:
    receive(store, 1, now=ago(60))
    lease = claim_complete(store)
    assert lease is not None
    store.advance_graded(
        lease, result_key="a" * 64, chosen_key="c" * 64, documents=documents(1), peers=[PeerSpec("gone")]
    )
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["peer gone"])
    assert {peer["name"]: peer["state"] for peer in done.json["peers"]} == {"gone": "unknown", "pacs": "ok"}


def test_a_withdrawal_from_a_peer_that_left_the_configuration_is_a_problem_until_it_is_for_a_hand(
    run: Run, config: Path, store: JobStore, running: object
) -> None:
    receive(store, 1, now=ago(60))
    lease = claim_complete(store)
    assert lease is not None
    store.advance_graded(
        lease, result_key="a" * 64, chosen_key="c" * 64, documents=documents(1), peers=[PeerSpec("gone")]
    )
    sending = store.claim_delivery("gone", worker="d", lease_s=60, max_attempts=3)
    assert sending is not None
    store.record_document(sending, documents(1)[0].sop_instance_uid, status=0, text="")
    store.advance_delivery(sending)
    targets = store.recallable(job_id=1)
    store.recall(targets, why="wrong", notes={(targets[0].result_id, "gone"): "e" * 64})
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["peer gone"])
    assert "1 withdrawal waits" in done.json["problems"][0]["sentence"]

    assert run("cancel", "1", "-c", config).code == 0

    assert run("status", "-c", config).code == 0
    assert "The administrator of gone must delete:" in run("job", "1", "-c", config).out
    assert run("cancel", "1", "-c", config).code == 1


def test_a_result_that_nobody_sends_is_a_problem(run: Run, config: Path, store: JobStore, running: object) -> None:
    receive(store, 1, now=ago(7300))
    grade(store, now=ago(3500))
    assert run("status", "-c", config).code == 0
    receive(store, 2, now=ago(7300))
    grade(store, now=ago(3700))
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["peer pacs"])
    store.pause_peer("pacs", why="moved")
    assert run("status", "-c", config).code == 0


def test_a_study_that_nobody_grades_is_a_problem(run: Run, config: Path, store: JobStore, running: object) -> None:
    receive(store, 1, now=ago(3700))
    assert about(run("status", "-c", config, "--json")) == ["grading"]


def test_a_full_disk_is_a_problem(run: Run, config: Path, store: JobStore, running: object) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("[receive]", "[receive]\nmin_free_mb = 1000000000"), encoding="utf-8")
    assert about(run("status", "-c", config, "--json")) == ["disk"]


def test_a_changed_bundle_is_a_problem(run: Run, config: Path, store: JobStore, running: object) -> None:
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("[receive]", f'bundle_digest = "{"0" * 64}"\n[receive]'), encoding="utf-8")
    done = run("status", "-c", config, "--json")
    assert (about(done), done.json["bundle"]) == (["bundle"], None)


def test_a_database_that_does_not_answer_is_a_problem(run: Run, config: Path, running: object) -> None:
    JobStore(f"sqlite:///{config.parent / 'spool' / 'jobs.db'}").close()
    (config.parent / "spool" / "jobs.db").write_bytes(b"")  # made, but without tables, as by another version
    done = run("status", "-c", config, "--json")
    assert (done.code, about(done)) == (1, ["database"])
    assert "serve' once" in run("status", "-c", config).out


def test_status_is_cheap_and_loads_no_networks(config: Path, filled: JobStore) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from stenosis_node.cli.app import app\n"
        f"CliRunner().invoke(app, ['status', '-c', {str(config)!r}])\n"
        "print([m for m in ('torch', 'pynetdicom', 'highdicom', 'pydicom') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == "[]\n"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 4  # about 1 s on a quiet machine


# --------------------------------------------------------------------------- peers


def test_pause_stops_deliveries_until_resume(run: Run, config: Path, store: JobStore) -> None:
    receive(store, 1, now=ago(60))
    grade(store, now=ago(30))
    assert run("pause", "pacs", "--why", "upgrade", "-c", config).code == 0
    assert run("pause", "pacs", "-c", config).code == 0
    assert run("peers", "-c", config, "--json").json["peers"][0]["paused_why"] == "upgrade"
    claim = {"worker": "d", "lease_s": 60.0, "max_attempts": 9}
    assert store.claim_delivery("pacs", **claim) is None
    shown = " ".join(run("peers", "-c", config).out.split())
    assert "pacs paused 1 0" in shown
    assert ": upgrade" in shown

    done = run("resume", "pacs", "-c", config, "--json")
    assert done.json == {"peer": "pacs", "paused": False}
    assert store.claim_delivery("pacs", **claim) is not None


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_peer_that_does_not_exist_is_not_found(run: Run, config: Path, store: JobStore, verb: str) -> None:
    done = run(verb, "pasc", "-c", config)
    assert (done.code, "known: pacs" in done.err) == (3, True)


def test_peers_lists_those_that_nothing_was_sent_to(run: Run, config: Path, store: JobStore) -> None:
    (peer,) = run("peers", "-c", config, "--json").json["peers"]
    assert (peer["name"], peer["state"], peer["pending"]) == ("pacs", "ok", 0)


def test_retry_of_a_peer_takes_up_its_dead_letters(run: Run, config: Path, filled: JobStore) -> None:
    done = run("retry", "--peer", "pacs", "-c", config, "--json")
    assert done.json == {"peer": "pacs", "retried": 1, "paused": False}
    job = filled.job(2)
    assert job is not None
    assert (job.job.state, job.deliveries[0].state) == (JobState.GRADED, DeliveryState.PENDING)
    assert "nothing was given up" in run("retry", "--peer", "pacs", "-c", config).out


def test_retry_wants_one_thing(run: Run, config: Path, filled: JobStore) -> None:
    assert run("retry", "-c", config).code == 2
    assert run("retry", "2", "--peer", "pacs", "-c", config).code == 2
    assert run("retry", "--peer", "pasc", "-c", config).code == 3


def test_dead_letters_of_a_delivered_job_can_be_cancelled_and_taken_up_again(
    run: Run, config: Path, store: JobStore
) -> None:
    receive(store, 1, now=ago(60))
    lease = claim_complete(store)
    assert lease is not None
    store.advance_graded(
        lease, result_key="a" * 64, chosen_key="c" * 64, documents=documents(1),
        peers=[PeerSpec("pacs", required=False)],
    )  # fmt: skip
    sending = store.claim_delivery("pacs", worker="d", lease_s=60, max_attempts=9)
    assert sending is not None
    store.fail_delivery(sending, sentence="refused")
    assert run("peers", "-c", config, "--json").json["peers"][0]["failed"] == 1

    done = run("cancel", "1", "-c", config)

    assert (done.code, "stays delivered" in done.out) == (0, True)
    assert run("peers", "-c", config, "--json").json["peers"][0]["state"] == "ok"
    assert run("cancel", "1", "-c", config).code == 1
    assert run("retry", "1", "-c", config).code == 0
    assert store.claim_delivery("pacs", worker="d", lease_s=60, max_attempts=9) is not None


# --------------------------------------------------------------------------- recall


def test_a_dry_run_lists_what_would_be_done_and_does_nothing(run: Run, config: Path, filled: JobStore) -> None:
    done = run("recall", "--job", "1", "--dry-run", "-c", config)
    assert done.code == 0
    assert "the peer takes no rejection notes" in " ".join(done.out.split())
    assert all(row.sop_instance_uid in done.out for row in documents(1))
    assert "Nothing was done" in done.out
    job = filled.job(1)
    assert job is not None
    assert (job.job.state, job.withdrawals) == (JobState.DELIVERED, ())


def test_recall_records_what_the_peers_administrator_must_delete(run: Run, config: Path, filled: JobStore) -> None:
    done = run("recall", "--job", study_uid(1), "--why", "wrong\nside", "--yes", "-c", config, "--json")
    assert done.code == 0
    (one,) = done.json["withdrawals"]
    assert (done.json["done"], one["peer"], one["means"]) == (True, "pacs", "by-hand")
    text = run("job", "1", "-c", config).out
    assert "Job 1: cancelled" in text
    assert "recalled: wrong side" in text
    assert "The administrator of pacs must delete:" in text
    assert all(f"  {row.sop_instance_uid}" in text.splitlines() for row in documents(1))
    assert "Withdrawn" in text


def test_a_recalled_job_says_that_retry_sends_a_new_revision(run: Run, config: Path, filled: JobStore) -> None:
    run("recall", "--job", "1", "--yes", "-c", config)
    done = run("retry", "1", "-c", config)
    assert done.code == 0
    assert "delivered as a new revision" in done.err


def test_recall_asks_where_somebody_can_answer_and_refuses_where_nobody_can(
    run: Run, config: Path, filled: JobStore
) -> None:
    done = run("recall", "--job", "1", "-c", config)
    assert (done.code, "--yes" in done.err) == (2, True)
    job = filled.job(1)
    assert job is not None
    assert job.withdrawals == ()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 2),
        (["--job", "1", "--bundle", "x"], 2),
        (["--job", "99"], 3),
        (["--job", "3", "--yes"], 3),
        (["--bundle", "unheard-of", "--yes"], 3),
    ],
)
def test_recall_of_nothing(run: Run, config: Path, filled: JobStore, options: list[str], code: int) -> None:
    assert run("recall", *options, "-c", config).code == code


def test_recall_before_the_first_serve(run: Run, config: Path) -> None:
    done = run("recall", "--job", "1", "--yes", "-c", config)
    assert (done.code, "holds no job database yet" in done.err) == (3, True)
