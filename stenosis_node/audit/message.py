"""An audit message, and how it is written as XML (PS3.15 A.5.1): one line, elements in the order of the schema."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from xml.etree import ElementTree as ET

from stenosis_node.audit.codes import Code


class Outcome(IntEnum):
    """EventOutcomeIndicator."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8
    MAJOR_FAILURE = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """Who took part: a person, a process of the node, a remote AE, or a file that was written."""

    user_id: str
    is_requestor: bool
    roles: tuple[Code, ...] = ()
    alternative_id: str = ""
    address: str = ""
    """IP address, host name or URI."""
    address_kind: int = 2
    """1: host name, 2: IP address, 5: URI."""
    media: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What it was about: a study, its patient, a query, a bundle."""

    id: str
    id_type: Code
    type_code: int
    """1: person, 2: system object."""
    role: int
    """1: patient, 3: report, 13: security resource, 24: query."""
    name: str = ""
    query: bytes | None = None
    """A query stands in place of a name."""
    details: tuple[tuple[str, bytes], ...] = ()
    instances: tuple[tuple[str, int], ...] = ()
    """Number of instances by SOP Class UID; an empty UID where the class is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One event."""

    event: Code
    action: str
    """C, R, U, D or E (create, read, update, delete, execute)."""
    participants: tuple[Participant, ...]
    types: tuple[Code, ...] = ()
    subjects: tuple[Subject, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    description: str = ""
    """EventOutcomeDescription."""
    at: datetime
    """Aware."""


def to_xml(message: Message, *, source_id: str, site_id: str = "") -> str:
    """The message on one line, without an XML declaration. Characters that XML cannot hold become U+FFFD."""
    root = ET.Element("AuditMessage")
    event = _sub(
        root,
        "EventIdentification",
        EventActionCode=message.action,
        EventDateTime=message.at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator=str(int(message.outcome)),
    )
    _code(event, "EventID", message.event)
    for kind in message.types:
        _code(event, "EventTypeCode", kind)
    if message.description:
        ET.SubElement(event, "EventOutcomeDescription").text = _clean(message.description)
    for participant in message.participants:
        _participant(root, participant)
    sites = {"AuditEnterpriseSiteID": site_id} if site_id else {}
    source = _sub(root, "AuditSourceIdentification", **sites, AuditSourceID=source_id)
    _sub(source, "AuditSourceTypeCode", **{"csd-code": "4"})  # a process of an application server
    for subject in message.subjects:
        _subject(root, subject)
    return ET.tostring(root, encoding="unicode")


def _participant(root: ET.Element, participant: Participant) -> None:
    attributes = {"UserID": participant.user_id}
    if participant.alternative_id:
        attributes["AlternativeUserID"] = participant.alternative_id
    attributes["UserIsRequestor"] = "true" if participant.is_requestor else "false"
    if participant.address:
        attributes["NetworkAccessPointID"] = participant.address
        attributes["NetworkAccessPointTypeCode"] = str(participant.address_kind)
    element = _sub(root, "ActiveParticipant", **attributes)
    for role in participant.roles:
        _code(element, "RoleIDCode", role)
    if participant.media is not None:
        _code(_sub(element, "MediaIdentifier"), "MediaType", participant.media)


def _subject(root: ET.Element, subject: Subject) -> None:
    element = _sub(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=subject.id,
        ParticipantObjectTypeCode=str(subject.type_code),
        ParticipantObjectTypeCodeRole=str(subject.role),
    )
    _code(element, "ParticipantObjectIDTypeCode", subject.id_type)
    if subject.query is None:
        ET.SubElement(element, "ParticipantObjectName").text = _clean(subject.name)
    else:
        ET.SubElement(element, "ParticipantObjectQuery").text = _base64(subject.query)
    for kind, value in subject.details:
        _sub(element, "ParticipantObjectDetail", type=kind, value=_base64(value))
    if subject.instances:
        described = _sub(element, "ParticipantObjectDescription")
        for uid, number in subject.instances:
            _sub(described, "SOPClass", **({"UID": uid} if uid else {}), NumberOfInstances=str(number))


def _code(parent: ET.Element, name: str, code: Code) -> None:
    _sub(parent, name, **{"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning})


def _sub(parent: ET.Element, element: str, **attributes: str) -> ET.Element:
    return ET.SubElement(parent, element, {key: _clean(value) for key, value in attributes.items()})


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _clean(text: str) -> str:
    """One line of characters that XML 1.0 can hold."""
    return "".join(_legal(text.strip()))


def _legal(text: str) -> Iterable[str]:
    for c in text:
        code = ord(c)
        if c in "\t\n\r\x85\u2028\u2029":
            yield " "
        elif code < 0x20 or 0x7F <= code < 0xA0 or 0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF):
            yield "\ufffd"
        else:
            yield c
