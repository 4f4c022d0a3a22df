"""What a peer answered for a document, what that means, and what follows (PS3.4 table B.2-1, PS3.7 annex C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from stenosis_node.errors import PermanentError, TransientError

CLASS_NOT_SUPPORTED: Final = 0x0122
SLOWEST_BYTES_PER_S: Final = 50_000
"""A connection that takes less counts as stuck."""


class NoAnswer(TransientError):
    """A document left, and nothing came back: the peer may have it."""


class Verdict(NamedTuple):
    """Meaning of a status in words, and the error it calls for; None when the peer has the instance."""

    meaning: str
    error: type[TransientError | PermanentError] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one attempt to store one document."""

    status: int
    """DIMSE status, failure or warning reason; the HTTP status where a DICOMweb peer gave none of these."""
    said: str
    """The status as sentences quote it."""
    verdict: Verdict
    comment: str = ""
    """Of the peer: it may quote the patient."""


@dataclass(frozen=True, slots=True)
class DocumentStatus:
    """What the peer answered for one document."""

    sop_instance_uid: str
    """Of the object that was sent: the document, or the alternative that took its place."""
    status: int | None
    """None: nothing, although the document left."""
    text: str
    """Meaning of the status, and whether the peer gave a comment: not what it says, which may quote the patient."""
    confirmed: bool
    """Whether the peer has the document."""


_EXACT: Final = {
    0x0000: Verdict("stored", None),
    0x0001: Verdict("stored, with a warning", None),
    0x0107: Verdict("stored, with a warning", None),
    0x0116: Verdict("stored, with a warning", None),
    0x0111: Verdict("the peer has this instance already", None),  # equal UIDs of ours have equal bytes
    0xB000: Verdict("stored, with coercion of data elements", None),
    0xB006: Verdict("stored, with elements discarded", None),
    0xB007: Verdict("stored, though the data set does not match the SOP class", None),
    0x0110: Verdict("processing failure", TransientError),
    0x0213: Verdict("resource limitation", TransientError),
    0x0105: Verdict("no such attribute", PermanentError),
    0x0106: Verdict("invalid attribute value", PermanentError),
    0x0112: Verdict("no such SOP instance", PermanentError),
    0x0115: Verdict("invalid argument value", PermanentError),
    0x0117: Verdict("invalid SOP instance", PermanentError),
    CLASS_NOT_SUPPORTED: Verdict("SOP class not supported", PermanentError),
    0x0124: Verdict("not authorised", PermanentError),
    0x0211: Verdict("unrecognised operation", PermanentError),
    0x0212: Verdict("mistyped argument", PermanentError),
}
_RANGES: Final = (
    (0xA700, 0xA7FF, Verdict("out of resources", TransientError)),
    (0xA900, 0xA9FF, Verdict("the data set does not match the SOP class", PermanentError)),
    (0xB000, 0xBFFF, Verdict("stored, with a warning", None)),
    (0xC000, 0xCFFF, Verdict("cannot understand", PermanentError)),
)
_UNKNOWN: Final = Verdict("unknown failure", TransientError)  # attempts are limited, so a retry costs little


def judge(status: int) -> Verdict:
    """The verdict on any 16-bit status."""
    if status in _EXACT:
        return _EXACT[status]
    return next((verdict for first, last, verdict in _RANGES if first <= status <= last), _UNKNOWN)
