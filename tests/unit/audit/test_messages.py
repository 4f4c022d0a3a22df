"""Each kind of message against the schema of the standard, and what must and must not be in it."""

from __future__ import annotations

import base64
import inspect
import os
import pwd
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from pydicom.filereader import read_dataset

from stenosis_node.audit import NONE, Events, Message, StudyPart, codes
from stenosis_node.audit.message import to_xml
from stenosis_node.config import Peer
from tests.unit.audit.conftest import MakeConfig
from tests.unit.audit.schema import check, event_of, outcome_of, subjects_of

MR = "1.2.840.10008.5.1.4.1.1.4"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PART = StudyPart("1.2.3", "4711", {MR: 30})
PEER = Peer(ae_title="PACS", host="10.0.0.5", port=104)
WEB = Peer(protocol="dicomweb", url="https://pacs.example/dicom-web")

MADE: dict[str, tuple[str, Callable[[Events], Message]]] = {
    "started": ("110100 110120", lambda e: e.started()),
    "stopped": ("110100 110121", lambda e: e.stopped()),
    "bundle_switched": ("110113 110131", lambda e: e.bundle_switched("a" * 64, "b" * 64)),
    "bundle_refused": ("110113 110131", lambda e: e.bundle_refused("a" * 64, "it is another bundle")),
    "configuration_changed": (
        "110113 110128", lambda e: e.configuration_changed(codes.NETWORK_CONFIGURATION, ["receive", "peers"])
    ),
    "recording_gap": ("110113 110133", lambda e: e.recording_gap(7, datetime.now(UTC))),
    "association": ("110113 110126", lambda e: e.association("SCANNER", "10.0.0.9")),
    "received": ("110104", lambda e: e.received("SCANNER", "10.0.0.9", PART)),
    "not_received": ("110104", lambda e: e.not_received("SCANNER", "fe80::1%eth0", 3)),
    "sending": ("110102", lambda e: e.sending(PEER, PART)),
    "sent": ("110104", lambda e: e.sent(WEB, PART)),
    "graded": ("110103", lambda e: e.graded(PART)),
    "deleted": ("110105", lambda e: e.deleted(StudyPart("1.2.3", "", {"": 30}))),
    "queried": ("110112", lambda e: e.queried(PEER, FIND, "1.2.3")),
    "administered": ("110113 110132", lambda e: e.administered("cancel job 3", [PART])),
    "viewed": ("110103", lambda e: e.viewed(PART)),
    "exported": ("110106", lambda e: e.exported(Path("findings of May.csv"), PART)),
    "audit_log_used": ("110101", lambda e: e.audit_log_used(Path("audit.log"))),
}  # fmt: skip


@pytest.fixture
def events(make_config: MakeConfig) -> Events:
    return Events(make_config())


def read(message: Message) -> ET.Element:
    return check(to_xml(message, source_id="STENOSIS", site_id="Hospital"))


@pytest.mark.parametrize("kind", MADE)
def test_conforms_to_the_schema_and_says_what_happened(events: Events, kind: str) -> None:
    expected, make = MADE[kind]
    assert event_of(read(make(events))) == expected


def test_every_kind_is_checked() -> None:
    public = {name for name, _ in inspect.getmembers(Events, inspect.isfunction) if not name.startswith("_")}
    assert public == MADE.keys()


@pytest.mark.parametrize("kind", ["received", "sending", "sent", "graded", "deleted", "viewed", "exported"])
def test_names_study_and_patient(events: Events, kind: str) -> None:
    subjects = subjects_of(read(MADE[kind][1](events)))
    assert subjects == {"Study Instance UID": "1.2.3", "Patient Number": NONE if kind == "deleted" else "4711"}


def test_counts_instances_by_class(events: Events) -> None:
    root = read(events.received("SCANNER", "10.0.0.9", PART))
    (counted,) = root.iter("SOPClass")
    assert counted.attrib == {"UID": MR, "NumberOfInstances": "30"}


def test_tells_sender_from_receiver_and_who_asked(events: Events) -> None:
    root = read(events.received("SCANNER", "10.0.0.9", PART))
    sender, we = root.findall("ActiveParticipant")
    assert (sender.attrib["UserID"], sender.attrib["NetworkAccessPointID"]) == ("SCANNER", "10.0.0.9")
    assert [p.attrib["UserIsRequestor"] for p in (sender, we)] == ["true", "false"]
    assert [p.find("RoleIDCode").attrib["csd-code"] for p in (sender, we)] == ["110153", "110152"]  # type: ignore[union-attr]
    assert we.attrib["AlternativeUserID"] == "AETITLES=STENOSIS"
    asked = read(events.received("PACS", "10.0.0.5", PART, we_asked=True))
    assert [p.attrib["UserIsRequestor"] for p in asked.findall("ActiveParticipant")] == ["false", "true"]


def test_outcome_says_how_bad_it_is(events: Events) -> None:
    assert outcome_of(read(events.sent(PEER, PART))) == 0
    assert outcome_of(read(events.sent(PEER, PART, failure="refused"))) == 4
    assert outcome_of(read(events.sent(PEER, PART, failure="refused", is_final=True))) == 8
    assert outcome_of(read(events.association("X", "10.0.0.9", refused="not allowed"))) == 4
    root = read(events.association("", "10.0.0.9", refused="no TLS", is_abuse=True))
    assert outcome_of(root) == 8
    assert root.findtext("EventIdentification/EventOutcomeDescription") == "no TLS"


def test_the_query_can_be_read_as_a_data_set(events: Events) -> None:
    query = read(events.queried(PEER, FIND, "1.2.3")).findtext(".//ParticipantObjectQuery")
    identifier = read_dataset(BytesIO(base64.b64decode(query or "")), True, True)
    assert (identifier.QueryRetrieveLevel, identifier.StudyInstanceUID) == ("SERIES", "1.2.3")


def test_a_person_is_an_account_of_this_machine(events: Events) -> None:
    root = read(events.administered("cancel job 3"))
    person = root.findall("ActiveParticipant")[0].attrib
    here = pwd.getpwuid(os.getuid()).pw_name
    assert here in (person["UserID"], person.get("AlternativeUserID"))
    assert person["UserIsRequestor"] == "true"


@pytest.mark.parametrize("patient", ["<\"&'>", "a\nb", "\x1b$)C\x0e", "홍길동-1", "\ud800", "  4711  "])
def test_any_patient_id_gives_one_line_of_xml(events: Events, patient: str) -> None:
    root = read(events.graded(StudyPart("1.2.3", patient, {MR: 1})))
    assert subjects_of(root)["Patient Number"]


def test_ids_are_kept_as_they_are(events: Events) -> None:
    for patient in ("<\"&'>", "홍길동-1", "A 1"):
        assert subjects_of(read(events.graded(StudyPart("1.2.3", patient))))["Patient Number"] == patient
