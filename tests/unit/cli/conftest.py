"""A configuration with a queue that the store's own calls have filled, and two ways to run the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from stenosis_node.cli.app import app
from stenosis_node.domain import Decision, DocumentKind, ReceivedInstance, SeriesDecision, SeriesReason
from stenosis_node.jobs import DocumentRow, JobStore, PeerSpec
from tests.conftest import free_port
from tests.unit.completeness import claim_complete
from training.export import write_untrained_bundle

MR = "1.2.840.10008.5.1.4.1.1.4"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Ran:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration of whoever runs the tests takes part."""
    for name in [name for name in os.environ if name.startswith("STENOSIS_NODE")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Run:
    """Run a verb in this process."""

    def invoke(*arguments: object) -> Ran:
        done = CliRunner().invoke(app, [str(a) for a in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Ran(done.exit_code, done.stdout, done.stderr)

    return invoke


@pytest.fixture
def spawn() -> Run:
    """Run a verb as a process of its own."""

    def start(*arguments: object, **environment: str) -> Ran:
        command = [sys.executable, "-m", "stenosis_node", *(str(a) for a in arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=110, check=False, env=os.environ | environment
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return start


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid configuration with one peer that nobody plays."""
    path = tmp_path / "node.toml"
    path.write_text(
        f"""\
spool = "spool"
[grading]
bundle = "bundle"
[receive]
port = {free_port()}
[peers.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = {free_port()}
timeout_s = 5
""",
        encoding="utf-8",
    )
    (tmp_path / "spool").mkdir()
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid demonstration bundle of random weights."""
    folder = tmp_path_factory.mktemp("weights")
    write_untrained_bundle(folder, locate_spacing_mm=3.0)
    return folder


@pytest.fixture
def store(config: Path, tmp_path: Path) -> Iterator[JobStore]:
    """The queue of that configuration, empty."""
    opened = JobStore(f"sqlite:///{tmp_path / 'spool' / 'jobs.db'}")
    opened.migrate()
    yield opened
    opened.close()


def study_uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.10.{number}"


def receive(store: JobStore, number: int, *, images: int = 1, now: datetime = NOON) -> int:
    """Instances of a study arrive; the number of its job."""
    job_id = None
    for image in range(1, images + 1):
        uid = f"{study_uid(number)}.1.{image}"
        touch = store.touch(
            ReceivedInstance(
                study_instance_uid=study_uid(number),
                series_instance_uid=f"{study_uid(number)}.1",
                sop_instance_uid=uid,
                sop_class_uid=MR,
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                path=Path(f"instances/{uid}.dcm"),
                size_bytes=1000,
                sha256="0" * 64,
                calling_ae_title="MODALITY",
                received_at=now,
            ),
            quiet_period_s=3,
            ceiling_s=600,
            now=now,
        )
        job_id = touch.job_id
    assert job_id is not None
    return job_id


def decision(number: int) -> SeriesDecision:
    return SeriesDecision(
        series_instance_uid=f"{study_uid(number)}.1",
        series_number=4,
        description="t2_tse_tra",
        n_instances=1,
        decision=Decision.GRADED,
        reason=SeriesReason.CHOSEN,
        sentence="axial, T2, lumbar",
        values={"TR": "3500"},
    )


def grade(store: JobStore, *, now: datetime) -> int:
    """The next study is graded: two documents for the peer ``pacs``. The number of its job."""
    lease = claim_complete(store, now=now)
    assert lease is not None
    store.record_decisions(lease, [decision(int(lease.study_instance_uid.rsplit(".", 1)[1]))])
    store.advance_graded(
        lease, result_key=f"{lease.job_id:064x}", chosen_key="c" * 64, documents=documents(lease.job_id),
        peers=[PeerSpec("pacs")], now=now,
    )  # fmt: skip
    return lease.job_id


def documents(job_id: int) -> tuple[DocumentRow, ...]:
    kinds = (DocumentKind.SC_OVERVIEW, DocumentKind.SC, DocumentKind.SR)
    return tuple(
        DocumentRow(
            sop_instance_uid=f"2.25.{job_id}{index}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
            series_instance_uid=f"2.25.{job_id}",
            kind=kind,
        )
        for index, kind in enumerate(kinds)
    )


def deliver(store: JobStore, *, now: datetime) -> None:
    """The next delivery to ``pacs`` goes well."""
    lease = store.claim_delivery("pacs", worker="deliver-1", lease_s=60, max_attempts=3, now=now)
    assert lease is not None
    for row in documents(lease.job_id):
        store.record_document(lease, row.sop_instance_uid, status=0, text="Success", now=now)
    store.advance_delivery(lease, now=now)


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.fixture
def filled(store: JobStore) -> JobStore:
    """Job 1 delivered, 2 failed in delivery, 3 rejected, 4 failed in grading, 5 waiting."""
    receive(store, 1, images=3)
    grade(store, now=later(10))
    deliver(store, now=later(11))

    receive(store, 2)
    grade(store, now=later(20))
    lease = store.claim_delivery("pacs", worker="deliver-1", lease_s=60, max_attempts=3, now=later(21))
    assert lease is not None
    refusal = "PACS refused the Structured Report: 0xA900"
    store.record_document(lease, documents(2)[0].sop_instance_uid, status=0, text="Success", now=later(21))
    store.record_document(lease, documents(2)[2].sop_instance_uid, status=0xA900, text="SOP Class", now=later(21))
    store.fail_delivery(lease, sentence=refusal, now=later(22))

    receive(store, 3)
    grading = claim_complete(store, now=later(30))
    assert grading is not None
    store.reject(grading, reason="no-candidate", sentence="no axial T2 series", decisions=[decision(3)], now=later(31))

    receive(store, 4)
    grading = claim_complete(store, now=later(40))
    assert grading is not None
    store.fail(grading, sentence="the bundle does not fit", now=later(41))

    receive(store, 5, now=datetime.now(UTC) + timedelta(hours=1))
    return store
