"""What reception reports to the audit stream, over both paths."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom import AE
from pynetdicom.presentation import build_context

from stenosis_node.config import load
from stenosis_node.receive import auditing
from stenosis_node.receive.auditing import AssociationAudit
from tests.unit.audit.schema import check, event_of, outcome_of, subjects_of
from tests.unit.receive.conftest import STUDY, Node, StartNode, both_paths, make_instance

Send = Callable[..., Dataset]
OTHER = "1.2.826.0.1.3680043.10.999.2"


def messages(node: Node) -> list[ET.Element]:
    """Everything that was reported, once the receiver has stopped."""
    node.receiver.stop()
    path = node.config.audit_file
    assert path.stat().st_mode & 0o777 == 0o600
    return [check(line) for line in path.read_text(encoding="utf-8").splitlines()]


@both_paths
def test_an_association_is_reported_and_each_study_once_with_its_counts(node: Node, send: Send, tmp_path: Path) -> None:
    files = [make_instance(tmp_path, n) for n in (1, 2)]
    files.append(make_instance(tmp_path, 3, sop_class=CTImageStorage))
    files.append(make_instance(tmp_path, 4, study=OTHER, PatientID=None))
    send(node, *files)

    opened, *transfers = messages(node)

    assert (event_of(opened), outcome_of(opened)) == ("110113 110126", 0)
    caller = opened.findall("ActiveParticipant")[0].attrib
    assert (caller["UserID"], caller["NetworkAccessPointID"]) == ("SENDER", "127.0.0.1")
    assert [event_of(one) for one in transfers] == ["110104", "110104"]
    first, second = transfers
    assert subjects_of(first) == {"Study Instance UID": STUDY, "Patient Number": "SECRETID"}
    counts = {one.attrib["UID"]: one.attrib["NumberOfInstances"] for one in first.iter("SOPClass")}
    assert counts == {str(MRImageStorage): "2", str(CTImageStorage): "1"}
    assert subjects_of(second) == {"Study Instance UID": OTHER, "Patient Number": "<none>"}


@both_paths
def test_an_association_that_breaks_is_reported_too(node: Node, tmp_path: Path) -> None:
    path = make_instance(tmp_path, 1)
    association = AE("SENDER").associate(
        "127.0.0.1", node.port, ae_title="STENOSIS", contexts=[build_context(MRImageStorage)]
    )
    association.send_c_store(path)
    association.abort()

    found = messages(node)

    assert [event_of(one) for one in found] == ["110113 110126", "110104"]


def test_a_long_association_reports_while_it_lasts(
    node: Node, send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "REPORT_EVERY_S", -1.0)
    send(node, *(make_instance(tmp_path, n) for n in (1, 2)))
    assert [event_of(one) for one in messages(node)] == ["110113 110126", "110104", "110104"]


def test_refused_instances_are_counted(start_node: StartNode, send: Send, tmp_path: Path) -> None:
    node = start_node(min_free_mb=10_000_000)
    send(node, *(make_instance(tmp_path, n) for n in (1, 2)))

    _, refused = messages(node)

    assert (event_of(refused), outcome_of(refused)) == ("110104", 4)
    assert refused.findtext("EventIdentification/EventOutcomeDescription") == "2 instances were refused"


def test_a_refused_association_is_reported_once_a_minute(node: Node) -> None:
    for _ in range(3):
        AE("SENDER").associate("127.0.0.1", node.port, ae_title="WRONG", contexts=[build_context(MRImageStorage)])

    (refused,) = messages(node)

    assert (event_of(refused), outcome_of(refused)) == ("110113 110126", 4)
    assert "called 'WRONG'" in (refused.findtext("EventIdentification/EventOutcomeDescription") or "")


@both_paths
def test_a_connection_without_tls_is_a_serious_failure(start_node: StartNode, fast_path: bool) -> None:
    def refuse(connection: socket.socket) -> socket.socket:
        raise OSError("the caller does not speak TLS")

    node = start_node()
    server = node.receiver._server
    assert server is not None
    server.secure = refuse
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", node.port)) as connection:
            assert connection.recv(10) == b""

    (refused,) = messages(node)

    assert (event_of(refused), outcome_of(refused)) == ("110113 110126", 8)


def test_what_cannot_be_made_or_kept_is_counted_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "MAX_WAITING", 2)
    config = load(None, overrides={"spool": str(tmp_path), "grading": {"bundle": str(tmp_path)}}, environment=False)
    audit = AssociationAudit(config)
    for _ in range(5):
        audit.not_received("SENDER", "127.0.0.1", 1)
    audit.start()
    audit.stop()
    found = [check(line) for line in config.audit_file.read_text().splitlines()]
    assert [event_of(one) for one in found] == ["110104", "110104", "110113 110133"]
    assert "3 audit messages" in (found[-1].findtext("EventIdentification/EventOutcomeDescription") or "")
