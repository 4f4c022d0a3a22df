"""What serve reports of itself: start and stop, other weights, other settings, deletions."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from stenosis_node.audit import AuditTrail
from stenosis_node.config import Config, load
from stenosis_node.domain import BundleIdentity, BundleStatus
from stenosis_node.errors import ConfigError
from stenosis_node.node.auditing import audited_bundle, audited_run, report_bundle, report_settings
from stenosis_node.node.chores import purge
from stenosis_node.work.grade import GradeWorker
from tests.acceptance.studies import PATIENT_ID, Study
from tests.conftest import free_port
from tests.unit.audit.schema import check, event_of, outcome_of, subjects_of
from tests.unit.audit.test_syslog import Server
from tests.unit.certificates import Authority
from tests.unit.work.conftest import Bench
from training.export import write_untrained_bundle

BUNDLE = BundleIdentity("phantom-1", "1.0", BundleStatus.DEMONSTRATION, "a" * 64, "tests")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "spool").mkdir()
    return load(
        None,
        overrides={"spool": str(tmp_path / "spool"), "grading": {"bundle": str(tmp_path / "b")}},
        environment=False,
    )


def messages(config: Config) -> list[ET.Element]:
    return [check(line) for line in config.audit_file.read_text(encoding="utf-8").splitlines()]


def test_start_and_stop_and_the_weights_once(config: Config) -> None:
    for _ in range(2):
        with audited_run(config, BUNDLE):
            pass
    assert [event_of(one) for one in messages(config)] == [
        "110100 110120", "110113 110131", "110100 110121", "110100 110120", "110100 110121",
    ]  # fmt: skip


def test_what_a_crash_left_of_the_state_goes_at_the_next_start(config: Config) -> None:
    left = config.spool / ".audit-state.json.4711"
    left.write_text("{")
    with audited_run(config, BUNDLE):
        assert not left.exists()
    assert (config.spool / "audit-state.json").exists()


def test_messages_go_to_the_syslog_server_while_the_node_runs(config: Config, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    ours, port = authority.issue("node"), free_port()
    server = Server(authority, port)
    syslog = {
        "syslog_host": "127.0.0.1", "syslog_port": port, "syslog_ca_file": authority.ca,
        "syslog_certificate": ours.certificate, "syslog_key": ours.key,
    }  # fmt: skip
    told = config.model_copy(update={"audit": config.audit.model_copy(update=syslog)})
    try:
        with audited_run(told, BUNDLE):
            server.wait_for(2)
    finally:
        server.stop()
    assert [event_of(check(line)) for line in server.wait_for(2)[:2]] == ["110100 110120", "110113 110131"]


def test_other_weights_are_an_event_with_both_digests(config: Config) -> None:
    trail = AuditTrail(config)
    report_bundle(config, BUNDLE, trail)
    report_bundle(config, replace(BUNDLE, digest="b" * 64), trail)
    report_bundle(config, replace(BUNDLE, digest="b" * 64), trail)

    _, switched = messages(config)

    assert event_of(switched) == "110113 110131"
    assert subjects_of(switched) == {"SHA-256 of the manifest of a weights bundle": "b" * 64}


def test_changed_sections_are_named_by_kind_and_no_value_is(config: Config) -> None:
    trail = AuditTrail(config)
    report_settings(config, trail)
    assert not config.audit_file.exists()
    other = config.model_copy(
        update={
            "receive": config.receive.model_copy(update={"port": 4711}),
            "safety": config.safety.model_copy(update={"allow_demonstration_delivery": True}),
            "log_level": "DEBUG",
        }
    )
    for _ in range(2):
        report_settings(other, trail)
    assert [event_of(one) for one in messages(config)] == ["110113 110128", "110113 110129", "110113 110131"]


def test_serve_refuses_a_bundle_that_is_not_the_pinned_one_and_says_so(tmp_path: Path) -> None:
    write_untrained_bundle(tmp_path / "bundle")
    config = load(
        None,
        overrides={
            "spool": str(tmp_path / "spool"),
            "grading": {"bundle": str(tmp_path / "bundle"), "bundle_digest": "c" * 64},
            "receive": {"port": free_port()},
        },
        environment=False,
    )
    with pytest.raises(ConfigError, match=r"grading\.bundle"):
        audited_bundle(config)

    (refused,) = messages(config)

    assert (event_of(refused), outcome_of(refused)) == ("110113 110131", 8)
    assert subjects_of(refused) == {"SHA-256 of the manifest of a weights bundle": "c" * 64}


def test_an_audit_file_that_cannot_be_written_is_a_fault_of_the_configuration(config: Config) -> None:
    nowhere = config.model_copy(update={"audit": config.audit.model_copy(update={"file": Path("/proc/audit.log")})})
    with pytest.raises(ConfigError, match=r"audit\.file"), audited_run(nowhere, BUNDLE):
        pass


def test_deleted_studies_are_named_with_their_patient_before_they_go(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    study = Study(tmp_path / "study")
    study.axial(4)
    bench.receive(*study.files)
    GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="w").step(threading.Event())
    (result,) = bench.job(study.uid).results
    stored = len(list((bench.spool.root / "documents" / result.result_key).glob("*.dcm")))
    for days in ({"instances_days": 0}, {"documents_days": 0}):
        retention = bench.config.retention.model_copy(update=days)
        config = bench.config.model_copy(update={"retention": retention})
        purge(config, bench.spool, bench.store, AuditTrail(bench.config))
    bench.store.close()

    *_, images, documents = messages(bench.config)

    for deleted, number in ((images, 4), (documents, stored)):
        assert event_of(deleted) == "110105"
        assert subjects_of(deleted) == {"Study Instance UID": study.uid, "Patient Number": PATIENT_ID}
        (counted,) = deleted.iter("SOPClass")
        assert counted.attrib == {"NumberOfInstances": str(number)}
