"""What the node reports, as messages of PS3.15 A.5.3."""

from __future__ import annotations

import os
import pwd
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from stenosis_node.audit import codes
from stenosis_node.audit.codes import Code
from stenosis_node.audit.message import Message, Outcome, Participant, Subject
from stenosis_node.config import Config, Peer

NONE: Final = "<none>"
"""Stands for the Patient ID of a study whose images have none, or are not here."""

_UNSET_LOGIN: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class StudyPart:
    """Instances of one study."""

    study_uid: str
    patient_id: str
    """Empty: not known."""
    instances: Mapping[str, int] = field(default_factory=dict)
    """Number by SOP Class UID; an empty UID where the class is not known."""


class Events:
    """Makes messages in the name of this node. Times are the present."""

    def __init__(self, config: Config) -> None:
        self._ae_title = config.receive.ae_title

    # ----------------------------------------------------------------- the node

    def started(self) -> Message:
        """``serve`` runs."""
        return self._activity(codes.APPLICATION_START)

    def stopped(self) -> Message:
        """``serve`` ends in order."""
        return self._activity(codes.APPLICATION_STOP)

    def _activity(self, kind: Code) -> Message:
        return _message(
            codes.APPLICATION_ACTIVITY,
            "E",
            types=(kind,),
            participants=(
                self._us(codes.APPLICATION, is_requestor=False),
                person(codes.LAUNCHER),
            ),
        )

    def bundle_switched(self, before: str, now: str) -> Message:
        """Other weights grade from now on. Digests; ``before`` is empty at the first start."""
        was = f"in place of {before}" if before else "for the first time"
        subject = _security_resource(now, codes.BUNDLE_DIGEST, f"bundle {now} is in use {was}")
        return self._alert(codes.SOFTWARE_CONFIGURATION, subject, action="U")

    def bundle_refused(self, pinned: str, why: str) -> Message:
        """The bundle is not the one that the configuration pins, or was changed."""
        subject = _security_resource(pinned, codes.BUNDLE_DIGEST, why)
        return self._alert(codes.SOFTWARE_CONFIGURATION, subject, outcome=Outcome.SERIOUS_FAILURE, description=why)

    def configuration_changed(self, kind: Code, sections: Iterable[str]) -> Message:
        """These sections of the configuration are others than at the last start."""
        said = f"changed since the last start: {', '.join(sorted(sections))}"
        return self._alert(kind, _security_resource(self._ae_title, codes.NODE_ID, said), action="U")

    def recording_gap(self, n_lost: int, since: datetime) -> Message:
        """So many messages could not be written and are lost."""
        said = f"{n_lost} audit messages since {since.astimezone(UTC).isoformat(timespec='seconds')} are lost"
        subject = _security_resource(self._ae_title, codes.NODE_ID, said)
        return self._alert(codes.RECORDING_STOPPED, subject, outcome=Outcome.SERIOUS_FAILURE, description=said)

    def _alert(
        self,
        kind: Code,
        subject: Subject,
        *,
        action: str = "E",
        outcome: Outcome = Outcome.SUCCESS,
        description: str = "",
    ) -> Message:
        return _message(
            codes.SECURITY_ALERT,
            action,
            types=(kind,),
            participants=(self._us(is_requestor=True),),
            subjects=(subject,),
            outcome=outcome,
            description=description,
        )

    # ----------------------------------------------------------------- associations

    def association(self, calling: str, address: str, *, refused: str = "", is_abuse: bool = False) -> Message:
        """Somebody opened an association, or a connection, or was refused one.

        calling  AE title; empty when the connection ended before it was said
        refused  why; empty for an association that was admitted
        """
        outcome = Outcome.SUCCESS if not refused else Outcome.SERIOUS_FAILURE if is_abuse else Outcome.MINOR_FAILURE
        said = refused or f"association of {calling} admitted"
        return _message(
            codes.SECURITY_ALERT,
            "E",
            types=(codes.NODE_AUTHENTICATION,),
            participants=(_remote(calling, address, is_requestor=True), self._us(is_requestor=False)),
            subjects=(_security_resource(calling or address, codes.NODE_ID, said),),
            outcome=outcome,
            description=refused,
        )

    # ----------------------------------------------------------------- instances

    def received(self, calling: str, address: str, part: StudyPart, *, we_asked: bool = False) -> Message:
        """Instances came in and are durable. ``we_asked``: by C-GET."""
        return _message(
            codes.INSTANCES_TRANSFERRED,
            "C",
            participants=(
                _remote(calling, address, codes.SOURCE, is_requestor=not we_asked),
                self._us(codes.DESTINATION, is_requestor=we_asked),
            ),
            subjects=_study(part),
        )

    def not_received(self, calling: str, address: str, number: int) -> Message:
        """Instances were refused; of which study they were is not known."""
        return _message(
            codes.INSTANCES_TRANSFERRED,
            "C",
            participants=(
                _remote(calling, address, codes.SOURCE, is_requestor=True),
                self._us(codes.DESTINATION, is_requestor=False),
            ),
            outcome=Outcome.MINOR_FAILURE,
            description=f"{number} instances were refused",
        )

    def sending(self, peer: Peer, part: StudyPart) -> Message:
        """A delivery begins; ``part`` is what the peer has not confirmed yet."""
        return _message(
            codes.BEGIN_TRANSFERRING, "E", participants=self._to(peer), subjects=_study(part)
        )  # fmt: skip

    def sent(self, peer: Peer, part: StudyPart, *, failure: str = "", is_final: bool = False) -> Message:
        """A delivery ended; ``part`` is what the peer confirmed. ``is_final``: nobody tries again by itself."""
        outcome = Outcome.SUCCESS if not failure else Outcome.SERIOUS_FAILURE if is_final else Outcome.MINOR_FAILURE
        return _message(
            codes.INSTANCES_TRANSFERRED,
            "R",
            participants=self._to(peer),
            subjects=_study(part),
            outcome=outcome,
            description=failure,
        )

    def graded(self, part: StudyPart, *, failure: str = "") -> Message:
        """The images of a study were read and graded, or could not be."""
        return _message(
            codes.INSTANCES_ACCESSED,
            "R",
            participants=(self._us(is_requestor=True),),
            subjects=_study(part),
            outcome=Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS,
            description=failure,
        )

    def deleted(self, part: StudyPart) -> Message:
        """Instances of a study were deleted because their time was over."""
        return _message(
            codes.STUDY_DELETED, "D", participants=(self._us(is_requestor=True),), subjects=_study(part)
        )  # fmt: skip

    def queried(self, peer: Peer, sop_class: str, study_uid: str, *, failure: str = "") -> Message:
        """A peer was asked what it has of a study (C-FIND), or for it (C-GET, C-MOVE)."""
        subject = Subject(
            id=sop_class,
            id_type=codes.SOP_CLASS_UID,
            type_code=2,
            role=24,
            query=_identifier(study_uid),
            details=(("TransferSyntax", b"1.2.840.10008.1.2"),),
        )
        return _message(
            codes.QUERY,
            "E",
            participants=(self._us(codes.SOURCE, is_requestor=True), _peer(peer, codes.DESTINATION)),
            subjects=(subject,),
            outcome=Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS,
            description=failure,
        )

    # ----------------------------------------------------------------- persons

    def administered(
        self, what: str, parts: Iterable[StudyPart] = (), *, failure: str = "", begun: bool = False
    ) -> Message:
        """Somebody told the node to do something: ``what`` is the command as a sentence.

        ``begun``: it is about to be done; another message says how it ended, unless the process was killed.
        """
        return _message(
            codes.SECURITY_ALERT,
            "E",
            types=(codes.RESTRICTED_FUNCTION,),
            participants=(person(), self._us(is_requestor=False)),
            subjects=(
                _security_resource(self._ae_title, codes.NODE_ID, what),
                *(subject for part in parts for subject in _study(part)),
            ),
            outcome=Outcome.MINOR_FAILURE if failure else Outcome.SUCCESS,
            description="begun" if begun else failure,
        )

    def viewed(self, part: StudyPart) -> Message:
        """Somebody read images or results of a study."""
        return _message(codes.INSTANCES_ACCESSED, "R", participants=(person(),), subjects=_study(part))

    def exported(self, file: Path, part: StudyPart) -> Message:
        """Somebody wrote findings of a study to a file."""
        media = Participant(
            user_id=file.name,
            is_requestor=False,
            roles=(codes.DESTINATION_MEDIA,),
            media=codes.URI_MEDIA,
            address=file.resolve().as_uri(),
            address_kind=5,
        )
        return _message(codes.EXPORT, "R", participants=(person(codes.SOURCE), media), subjects=_study(part))

    def audit_log_used(self, file: Path) -> Message:
        """Somebody read the audit stream by means of the node."""
        subject = Subject(
            id=file.resolve().as_uri(),
            id_type=codes.URI,
            type_code=2,
            role=13,
            name="Security Audit Log",
        )
        return _message(codes.AUDIT_LOG_USED, "R", participants=(person(),), subjects=(subject,))

    # ----------------------------------------------------------------- who

    def _us(self, *roles: Code, is_requestor: bool) -> Participant:
        return Participant(
            user_id=str(os.getpid()),
            alternative_id=f"AETITLES={self._ae_title}",
            is_requestor=is_requestor,
            roles=roles,
        )

    def _to(self, peer: Peer) -> tuple[Participant, ...]:
        return self._us(codes.SOURCE, is_requestor=True), _peer(peer, codes.DESTINATION)


def person(*roles: Code) -> Participant:
    """Who runs this process: the account of the login, which the kernel keeps across sudo and su."""
    acting, login = os.getuid(), os.getuid()
    try:
        kept = int(Path("/proc/self/loginuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        kept = _UNSET_LOGIN
    if kept != _UNSET_LOGIN:
        login = kept
    return Participant(
        user_id=_account(login),
        alternative_id=_account(acting) if acting != login else "",
        is_requestor=True,
        roles=roles,
    )


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _remote(ae_title: str, address: str, *roles: Code, is_requestor: bool) -> Participant:
    return Participant(
        user_id=ae_title or address or "unknown",
        alternative_id=f"AETITLES={ae_title}" if ae_title else "",
        is_requestor=is_requestor,
        roles=roles,
        address=address,
        address_kind=_kind(address),
    )


def _peer(peer: Peer, role: Code) -> Participant:
    if peer.url is not None:
        return Participant(user_id=peer.url, is_requestor=False, roles=(role,), address=peer.url, address_kind=5)
    return _remote(peer.ae_title or "", peer.address, role, is_requestor=False)


def _kind(address: str) -> int:
    try:
        ip_address(address.partition("%")[0])
    except ValueError:
        return 1
    return 2


# --------------------------------------------------------------------------- what


def _message(
    event: Code,
    action: str,
    *,
    participants: tuple[Participant, ...],
    types: tuple[Code, ...] = (),
    subjects: tuple[Subject, ...] = (),
    outcome: Outcome = Outcome.SUCCESS,
    description: str = "",
) -> Message:
    return Message(
        event=event,
        action=action,
        types=types,
        participants=participants,
        subjects=subjects,
        outcome=outcome,
        description=description,
        at=datetime.now(UTC),
    )


def _study(part: StudyPart) -> tuple[Subject, Subject]:
    """The study and its patient, of whom nothing but the ID is written."""
    study = Subject(
        id=part.study_uid,
        id_type=codes.STUDY_UID,
        type_code=2,
        role=3,
        instances=tuple(sorted(part.instances.items())),
    )
    patient = Subject(id=part.patient_id.strip() or NONE, id_type=codes.PATIENT_NUMBER, type_code=1, role=1)
    return study, patient


def _security_resource(name: str, kind: Code, description: str) -> Subject:
    return Subject(
        id=name, id_type=kind, type_code=2, role=13, details=(("Alert Description", description.encode()),)
    )  # fmt: skip


def _identifier(study_uid: str) -> bytes:
    """What is asked for, as the identifier of a query in Implicit VR Little Endian: the series of one study."""
    return (
        _element(0x0008, 0x0052, b"SERIES")
        + _element(0x0020, 0x000D, study_uid.encode("ascii", "replace"), b"\0")
        + _element(0x0020, 0x000E, b"")
    )


def _element(group: int, element: int, value: bytes, padding: bytes = b" ") -> bytes:
    value += padding * (len(value) % 2)
    return struct.pack("<HHL", group, element, len(value)) + value
