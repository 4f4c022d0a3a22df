"""The schema of PS3.15 A.5.1 as a check, written down from the standard and not from the code."""

from __future__ import annotations

import base64
import re
from datetime import datetime
from xml.etree import ElementTree as ET

CODED = {"csd-code": True, "codeSystemName": True, "displayName": False, "originalText": True}
UID = r"[0-2](\.(0|[1-9][0-9]*))+"

CONTENT = {
    "AuditMessage": (
        "EventIdentification ActiveParticipant+ AuditSourceIdentification ParticipantObjectIdentification*",
        {},
    ),
    "EventIdentification": (
        "EventID EventTypeCode* EventOutcomeDescription?",
        {"EventActionCode": False, "EventDateTime": True, "EventOutcomeIndicator": True},
    ),
    "EventOutcomeDescription": ("", {}),
    "ActiveParticipant": (
        "RoleIDCode* MediaIdentifier?",
        {
            "UserID": True, "AlternativeUserID": False, "UserName": False, "UserIsRequestor": True,
            "NetworkAccessPointID": False, "NetworkAccessPointTypeCode": False,
        },
    ),
    "MediaIdentifier": ("MediaType", {}),
    "AuditSourceIdentification": ("AuditSourceTypeCode*", {"AuditEnterpriseSiteID": False, "AuditSourceID": True}),
    "AuditSourceTypeCode": (
        "",
        {"csd-code": True, "codeSystemName": False, "displayName": False, "originalText": False},
    ),
    "ParticipantObjectIdentification": (
        "ParticipantObjectIDTypeCode (ParticipantObjectName|ParticipantObjectQuery) ParticipantObjectDetail* "
        "ParticipantObjectDescription*",
        {
            "ParticipantObjectID": True, "ParticipantObjectTypeCode": False, "ParticipantObjectTypeCodeRole": False,
            "ParticipantObjectDataLifeCycle": False, "ParticipantObjectSensitivity": False,
        },
    ),
    "ParticipantObjectName": ("", {}),
    "ParticipantObjectQuery": ("", {}),
    "ParticipantObjectDetail": ("", {"type": True, "value": True}),
    "ParticipantObjectDescription": (
        "MPPS* Accession* SOPClass* ParticipantObjectContainsStudy? Encrypted? Anonymized?",
        {},
    ),
    "SOPClass": ("Instance*", {"UID": False, "NumberOfInstances": True}),
    **dict.fromkeys(("EventID", "EventTypeCode", "RoleIDCode"), ("", CODED)),
    **dict.fromkeys(("MediaType", "ParticipantObjectIDTypeCode"), ("", CODED)),
}  # fmt: skip

VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
    "NumberOfInstances": "[0-9]+",
    "UID": UID,
}

EVENTS = {
    "110100": ("Application Activity", "E"),
    "110101": ("Audit Log Used", "R"),
    "110102": ("Begin Transferring DICOM Instances", "E"),
    "110103": ("DICOM Instances Accessed", "CRUD"),
    "110104": ("DICOM Instances Transferred", "CRU"),
    "110105": ("DICOM Study Deleted", "D"),
    "110106": ("Export", "R"),
    "110112": ("Query", "E"),
    "110113": ("Security Alert", "ERU"),
}
"""Meaning and allowed actions; the standard says E of alerts, and the codes of changes are of use to readers."""


def check(line: str) -> ET.Element:
    """The message, which conforms. AssertionError says where it does not."""
    assert "\n" not in line
    root = ET.fromstring(line)
    _check(root)
    event = root.find("EventIdentification/EventID")
    assert event is not None
    meaning, actions = EVENTS[event.attrib["csd-code"]]
    assert event.attrib["originalText"] == meaning
    assert event.attrib["codeSystemName"] == "DCM"
    identification = root.find("EventIdentification")
    assert identification is not None
    assert identification.attrib["EventActionCode"] in actions
    at = identification.attrib["EventDateTime"]
    assert at.endswith("Z")
    datetime.fromisoformat(at.replace("Z", "+00:00"))
    return root


def _check(element: ET.Element) -> None:
    content, attributes = CONTENT[element.tag]
    pattern = "".join(re.sub(r"(\w+)", r"(?:\1 )", part) for part in content.split())
    children = "".join(f"{child.tag} " for child in element)
    assert re.fullmatch(pattern, children), f"{element.tag} holds {children}"
    for name, needed in attributes.items():
        assert not needed or name in element.attrib, f"{element.tag} lacks {name}"
    for name, value in element.attrib.items():
        assert name in attributes, f"{element.tag} has {name}"
        assert value == value.strip()
        if name in VALUES:
            assert re.fullmatch(VALUES[name], value), f"{name} is {value!r}"
    if element.tag == "ParticipantObjectDetail":
        base64.b64decode(element.attrib["value"], validate=True)
    if element.tag == "ParticipantObjectQuery":
        base64.b64decode(element.text or "", validate=True)
    assert ("NetworkAccessPointID" in element.attrib) == ("NetworkAccessPointTypeCode" in element.attrib)
    for child in element:
        _check(child)


def event_of(root: ET.Element) -> str:
    """Code of the event, and of its type when it has one."""
    found = [*root.findall("EventIdentification/EventID"), *root.findall("EventIdentification/EventTypeCode")]
    return " ".join(one.attrib["csd-code"] for one in found)


def outcome_of(root: ET.Element) -> int:
    found = root.find("EventIdentification")
    assert found is not None
    return int(found.attrib["EventOutcomeIndicator"])


def subjects_of(root: ET.Element) -> dict[str, str]:
    """Kind of identifier to identifier."""
    found = {}
    for subject in root.findall("ParticipantObjectIdentification"):
        kind = subject.find("ParticipantObjectIDTypeCode")
        assert kind is not None
        found[kind.attrib["originalText"]] = subject.attrib["ParticipantObjectID"]
    return found
