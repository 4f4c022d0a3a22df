"""STOW-RS of documents (PS3.18 section 10.5): one request per document, so that each has its own answer.

A server says per instance what became of it, in the body of the answer; the HTTP status alone decides only where the
body does not name the instance. Nothing of a body but reasons and UIDs is kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final
from xml.etree import ElementTree

from dicomweb_client.web import DICOMwebClient
from pydicom import dcmread

from stenosis_node.config import Peer
from stenosis_node.deliver.http import BoundedSession, HttpAnswer, translated
from stenosis_node.deliver.statuses import Answer, NoAnswer, Verdict, judge
from stenosis_node.deliver.storing import Candidates, Conversation
from stenosis_node.domain import Document
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.association import describe

FAILED_SOP_SEQUENCE: Final = "00081198"
OTHER_FAILURES_SEQUENCE: Final = "0008119A"
REFERENCED_SOP_SEQUENCE: Final = "00081199"
REFERENCED_SOP_INSTANCE_UID: Final = "00081155"
WARNING_REASON: Final = "00081196"
FAILURE_REASON: Final = "00081197"
SOP_INSTANCE_UID: Final = "00080018"

ALREADY_STORED: Final = 0x0111
FAILURES: Final = {
    0xB00E: judge(ALREADY_STORED),  # Azure Health Data Services
    0xB00F: Verdict("another request stores the same instance", TransientError),  # the same
}
"""Failure reasons that mean something else as a C-STORE status."""

TRANSIENT: Final = frozenset({202, 408, 409, 423, 425, 429})
"""Besides 5xx: these may end differently next time. Of 202 and 409: when the body does not say why."""
NOT_IMPLEMENTED: Final = frozenset({501, 505})


@contextlib.contextmanager
def over_http(peer: Peer) -> Iterator[Conversation]:
    """A session with a DICOMweb server; nothing is sent yet."""
    with contextlib.closing(BoundedSession(peer)) as session:
        yield _Web(peer, session)


def reach(peer: Peer) -> None:
    """Ask the server for one study, or, where it has no search, for its options.

    raises  TransientError, PermanentError: what a delivery would meet
    """
    with contextlib.closing(BoundedSession(peer)) as session:
        _Web(peer, session).reach()


class _Web:
    def __init__(self, peer: Peer, session: BoundedSession) -> None:
        self._peer = peer
        self._session = session
        root = (peer.url or "").rstrip("/")
        self._studies = f"{root}/studies"
        self._client = DICOMwebClient(root, session=session, chunk_size=1 << 40)  # with a length, never chunked
        self._client.set_http_retry_params(retry=False)  # when to try again is not the library's decision
        for noisy in ("dicomweb_client", "retrying", "urllib3"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what the peer did is in our errors

    def sendable(self, due: Sequence[Candidates]) -> Sequence[Candidates]:
        """Everything: a server cannot be asked which SOP classes it takes."""
        return due

    def store(self, document: Document) -> Answer:
        """STOW-RS of one document."""
        uid = document.sop_instance_uid
        with translated(self._peer, f"document {uid}"):
            self._client.store_instances([dcmread(BytesIO(document.content))])
        answer = self._answer(uid)
        if (said := _reason(answer, uid)) is not None:
            return said
        if answer.status in (HTTPStatus.ACCEPTED, HTTPStatus.CONFLICT) and self._has(uid):
            said_http = f"HTTP {answer.status}"
            return Answer(status=ALREADY_STORED, said=said_http, verdict=judge(ALREADY_STORED))
        return Answer(status=answer.status, said=f"HTTP {answer.status}", verdict=_verdict(answer))

    def reach(self) -> None:
        """See :func:`reach`."""
        with translated(self._peer, "a search"):
            self._client.search_for_studies(limit=1, fields=["StudyInstanceUID"])
        answer = self._answer("a search")
        if not answer.ok and answer.status not in (401, 403):
            with translated(self._peer, "OPTIONS"):
                self._session.options(self._studies)
            answer = self._answer("OPTIONS")
        if not answer.ok:
            verdict = _verdict(answer)
            raise (verdict.error or TransientError)(
                f"{describe(self._peer)} answered HTTP {answer.status} ({verdict.meaning})"
            )

    def _has(self, uid: str) -> bool:
        """Whether a search finds the instance. A server that cannot search says no."""
        with contextlib.suppress(TransientError, PermanentError), translated(self._peer, "a search"):
            self._client.search_for_instances(search_filters={"SOPInstanceUID": uid})
        answer = self._session.answer
        if answer is None or not answer.ok:
            return False
        found = _json(answer.body)
        return any(_values(one, SOP_INSTANCE_UID) == [uid] for one in (found if isinstance(found, list) else [found]))

    def _answer(self, what: str) -> HttpAnswer:
        if self._session.answer is None:
            raise NoAnswer(f"{describe(self._peer)} did not answer for {what}")
        return self._session.answer


def _verdict(answer: HttpAnswer) -> Verdict:
    """What an HTTP status means on its own."""
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "unknown status"
    match answer.status:
        case 401 | 403 | 407:
            return Verdict(f"{phrase}: correct username and password, or token, of the peer", PermanentError)
        case 404 | 405:
            return Verdict(f"{phrase}: correct url of the peer, which is the root below /studies", PermanentError)
        case 413 | 415:
            return Verdict(f"{phrase}: the server must be set up to take such objects", PermanentError)
        case status if 300 <= status < 400:
            return Verdict(f"{phrase}: the server has moved, correct url of the peer", PermanentError)
        case status if status in TRANSIENT:
            return Verdict(f"{phrase}, and it does not say what became of the document", TransientError)
        case status if 200 <= status < 300:
            return judge(0x0000)
        case status if status in NOT_IMPLEMENTED or 400 <= status < 500:
            return Verdict(phrase, PermanentError)
        case _:
            return Verdict(phrase, TransientError)


def _reason(answer: HttpAnswer, uid: str) -> Answer | None:
    """What the body says about the instance; None when it says nothing."""
    body = _parse(answer)
    for item in (*_items(body, FAILED_SOP_SEQUENCE), *_items(body, OTHER_FAILURES_SEQUENCE)):
        reason = _number(item, FAILURE_REASON)  # of whatever instance: only one was sent
        verdict = FAILURES.get(reason) or judge(reason)
        if verdict.error is None and reason != ALREADY_STORED and reason not in FAILURES:
            verdict = Verdict("not stored", TransientError)  # a warning or success among the failures
        return Answer(status=reason, said=f"0x{reason:04X}", verdict=verdict)
    for item in _items(body, REFERENCED_SOP_SEQUENCE):
        if _values(item, REFERENCED_SOP_INSTANCE_UID) == [uid]:
            reason = _number(item, WARNING_REASON)
            verdict = judge(reason)
            if verdict.error is not None:  # it is among the stored ones, whatever the warning
                verdict = Verdict("stored, with a warning", None)
            return Answer(status=reason, said=f"0x{reason:04X}", verdict=verdict)
    return None


# ------------------------------------------------------------- DICOM JSON and native XML, without a data dictionary


def _parse(answer: HttpAnswer) -> Any:
    """The body as DICOM JSON; an empty mapping when it is neither JSON nor XML."""
    if answer.media_type.endswith("xml"):
        try:
            return _from_xml(ElementTree.fromstring(answer.body))
        except ElementTree.ParseError:
            return {}
    body = _json(answer.body)
    return body[0] if isinstance(body, list) and body else body


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return {}


def _from_xml(parent: ElementTree.Element) -> dict[str, Any]:
    """The native DICOM model (PS3.19 annex A) of a data set or item, as DICOM JSON."""
    found: dict[str, Any] = {}
    for attribute in parent:
        values = [
            _from_xml(child) if child.tag.rpartition("}")[2] == "Item" else (child.text or "").strip()
            for child in attribute
        ]
        found[attribute.get("tag", "").upper()] = {"Value": values}
    return found


def _values(dataset: Any, tag: str) -> list[Any]:
    attribute = dataset.get(tag) if isinstance(dataset, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _items(dataset: Any, tag: str) -> list[Any]:
    return [item for item in _values(dataset, tag) if isinstance(item, dict)]


def _number(item: Any, tag: str) -> int:
    """A reason; 0 when there is none, 0x0110 when it is no number."""
    values = _values(item, tag)
    try:
        return int(values[0]) & 0xFFFF if values else 0
    except (TypeError, ValueError):
        return 0x0110
