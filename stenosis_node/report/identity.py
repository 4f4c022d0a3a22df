"""Names of results and documents: content key, UIDs and times, all derived, none random and none from a clock.

The same UID must always mean the same bytes, so everything that decides bytes goes into the UIDs of a document.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final

from stenosis_node.config import Report
from stenosis_node.domain import SliceRef, StudyFindings
from stenosis_node.report import wording
from stenosis_node.report.wanted import EVERYTHING, Wanted

LAYOUT: Final = "4"
"""Raised when the same findings would give other documents; part of the content key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predecessor:
    """The report of an earlier revision, named by the one that supersedes it."""

    revision: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """Everything beside findings and images that decides the bytes of the documents."""

    key: str
    """From :func:`content_key`."""
    created: datetime
    """Aware; stored with the job when it was first claimed. All times in the documents are its wall clock."""
    settings: Report
    ae_title: str
    revision: int = 1
    predecessors: tuple[Predecessor, ...] = ()
    wanted: Wanted = EVERYTHING
    """As in the key."""

    def uid(self, *parts: object) -> str:
        """UID of something in this set of documents."""
        earlier = [p.sop_instance_uid for p in self.predecessors]
        return derived_uid(self.key, self.created.isoformat(), self.revision, *earlier, self.ae_title, *parts)

    @property
    def device_uid(self) -> str:
        """UID of this installation."""
        return self.settings.device_uid or derived_uid("device", self.ae_title)

    @property
    def date(self) -> str:
        """DA."""
        return self.created.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """TM, whole seconds."""
        return self.created.strftime("%H%M%S")


def derived_uid(*parts: object) -> str:
    """``2.25.`` and a UUID (PS3.5 B.2) from SHA-256 of the parts: the same parts give the same UID on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()[:16]
    number = int.from_bytes(digest, "big")
    number = number & ~(0xF << 76) | 0x8 << 76  # version 8: custom (RFC 9562)
    number = number & ~(0x3 << 62) | 0x2 << 62  # variant
    return f"2.25.{number}"


def tracking_uid(ref: SliceRef, what: str) -> str:
    """Tracking UID of a finding on an image: the same in every revision, so that revisions can be compared."""
    return derived_uid("tracking", ref.sop_instance_uid, ref.frame_number, what)


def content_key(findings: StudyFindings, settings: Report, wanted: Wanted = EVERYTHING) -> str:
    """Name of a result: hex SHA-256 of what was graded, by what, with which outcome, and of the output settings.

    Decisions about series that were not graded do not count: a localizer that arrives late is no new result.
    """
    graded = replace(findings, decisions=())
    output = [settings.model_dump(mode="json"), asdict(wanted)]
    parts = [LAYOUT, graded.to_json(), *(json.dumps(one, sort_keys=True) for one in output)]
    return hashlib.sha256("\x1e".join(parts).encode()).hexdigest()


def algorithm_version(findings: StudyFindings) -> str:
    """Software and weights in one text: Algorithm Version and Software Versions (LO, at most 64 characters)."""
    bundle = findings.bundle
    full = f"{findings.software_version} {bundle.name} {bundle.version} {bundle.digest[:12]}"
    text = full if len(full) <= 64 else f"{findings.software_version} {bundle.digest[:12]}"
    return text.replace("\\", "/")[:64]


def contribution(findings: StudyFindings) -> str:
    """Contribution Description: which weights, for what."""
    bundle = findings.bundle
    return (
        f"{wording.ALGORITHM} {findings.software_version}, weights {bundle.name} {bundle.version} "
        f"({bundle.status}, sha256 {bundle.digest}). {bundle.intended_use}"
    )[:1024]
