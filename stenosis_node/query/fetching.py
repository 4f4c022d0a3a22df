"""C-GET and C-MOVE of single instances: a gap is fetched, never what we have already."""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, build_context

from stenosis_node.config import Peer
from stenosis_node.errors import PermanentError
from stenosis_node.query.conversation import (
    MOVE_DESTINATION_UNKNOWN,
    PENDING,
    SOME_FAILED,
    SUCCESS,
    PeerAway,
    Responses,
    Watch,
    conversation,
    failure,
    responses,
)
from stenosis_node.query.finding import KnownInstance
from stenosis_node.wire.association import describe
from stenosis_node.wire.header import MissingUid, UnreadableHeader, read_uids
from stenosis_node.wire.part10 import file_meta

log = logging.getLogger("stenosis_node.query")

STUDY_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.2.3")

CHUNK: Final = 100
"""UIDs in one request."""
MAX_CONTEXTS: Final = 128
PATIENCE: Final = 4
"""Times the time limit of the peer that it may be silent: it may have to bring the images back from a tape first."""
REQUEST_LIMIT_S: Final = 1800.0
CONTROL_BYTES: Final = 1_000_000
"""Of commands and fragments' heads, beside the data set."""

OUT_OF_RESOURCES: Final = 0xA700
DOES_NOT_MATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

MR_CLASSES: Final = (
    uids.MRImageStorage, uids.EnhancedMRImageStorage, uids.LegacyConvertedEnhancedMRImageStorage
)  # fmt: skip
"""Proposed when the peer does not tell the SOP classes."""
TRANSFER_SYNTAXES: Final = (
    uids.ExplicitVRLittleEndian,
    uids.JPEG2000Lossless,
    uids.JPEGLosslessSV1,
    uids.JPEGLossless,
    uids.JPEGLSLossless,
    uids.JPEGLSNearLossless,
    uids.JPEG2000,
    uids.RLELossless,
    uids.JPEGBaseline8Bit,
    uids.JPEGExtended12Bit,
    uids.HTJ2KLossless,
    uids.HTJ2KLosslessRPCL,
    uids.HTJ2K,
    uids.ImplicitVRLittleEndian,
    uids.DeflatedExplicitVRLittleEndian,
    uids.ExplicitVRBigEndian,
)
"""One context each, so that an archive sends what it has as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedInstance:
    """An instance that came by C-GET."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    chunks: tuple[bytes, bytes]
    """A Part 10 file in pieces; the data set as it came."""


@dataclass(frozen=True, slots=True)
class FetchOutcome:
    """How fetching went, when the peer did what it was asked."""

    asked: int
    completed: int
    """By C-GET: kept by us. By C-MOVE: sent to us, as the peer says."""
    failed: int
    """Sub-operations that failed, as the peer says."""


Keep = Callable[[FetchedInstance], None]
Progress = Callable[[int, int], None]


def get_instances(
    peer: Peer,
    study_uid: str,
    wanted: Sequence[KnownInstance],
    *,
    calling_ae_title: str,
    keep: Keep,
    max_object_bytes: int,
    progress: Progress | None = None,
) -> FetchOutcome:
    """Fetch the wanted instances over this association.

    keep      called for each instance; what it raises is the answer "out of resources" to the peer, and is raised
              again in the end
    progress  called with how many came and how many are wanted

    raises  PeerAway, TransientError, PermanentError (no C-GET there, or no storage context with us as provider); what
            was kept before stays kept
    """
    contexts, classes = _storage_contexts(wanted)
    receiving = _Receiving(peer, study_uid, keep, len(wanted), progress)
    with conversation(
        peer,
        [build_context(STUDY_ROOT_GET), *contexts],
        calling_ae_title=calling_ae_title,
        roles=[build_role(sop_class, scp_role=True) for sop_class in classes],
        handlers=[(evt.EVT_C_STORE, receiving.on_store)],
    ) as association:
        _check_contexts(association, peer)
        failed = 0
        for number, identifier in enumerate(_requests(study_uid, wanted), start=1):
            begin = functools.partial(association.send_c_get, identifier, STUDY_ROOT_GET, msg_id=number)
            max_bytes = max_object_bytes + CONTROL_BYTES
            try:
                with _watch(association, peer, max_bytes=max_bytes) as receiving.watch:
                    failed += _retrieve(begin, "C-GET", peer, receiving.watch)
            finally:
                if receiving.trouble is not None:  # what the peer says of it afterwards is only what follows
                    raise receiving.trouble
    return FetchOutcome(len(wanted), receiving.kept, failed)


def move_instances(
    peer: Peer,
    study_uid: str,
    wanted: Sequence[KnownInstance],
    *,
    calling_ae_title: str,
    destination: str,
    progress: Progress | None = None,
) -> FetchOutcome:
    """Have the peer send the wanted instances to ``destination``, our own AE title, over an association of its own.

    raises  PeerAway, TransientError, PermanentError (no C-MOVE there; it does not know the destination)
    """
    contexts = [build_context(STUDY_ROOT_MOVE, [uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian])]
    asked = failed = 0
    with conversation(peer, contexts, calling_ae_title=calling_ae_title) as association:
        for number, identifier in enumerate(_requests(study_uid, wanted), start=1):
            begin = functools.partial(association.send_c_move, identifier, destination, STUDY_ROOT_MOVE, msg_id=number)
            with _watch(association, peer, max_bytes=CONTROL_BYTES) as watch:
                failed += _retrieve(begin, "C-MOVE", peer, watch)
            asked += identifier["SOPInstanceUID"].VM
            if progress is not None:
                progress(asked, len(wanted))
    return FetchOutcome(len(wanted), len(wanted) - failed, failed)


def _watch(association: Association, peer: Peer, *, max_bytes: int) -> Watch:
    return Watch(association, silence_s=PATIENCE * peer.timeout_s, total_s=REQUEST_LIMIT_S, max_bytes=max_bytes)


def _requests(study_uid: str, wanted: Sequence[KnownInstance]) -> Iterator[Dataset]:
    """Identifiers at IMAGE level: a series each, with at most CHUNK of its instances."""
    by_series: dict[str, list[str]] = defaultdict(list)
    for instance in wanted:
        by_series[instance.series_instance_uid].append(instance.sop_instance_uid)
    for series_uid, sop_uids in by_series.items():
        for begin in range(0, len(sop_uids), CHUNK):
            identifier = Dataset()
            identifier.QueryRetrieveLevel = "IMAGE"
            identifier.StudyInstanceUID = study_uid
            identifier.SeriesInstanceUID = series_uid
            identifier.SOPInstanceUID = sop_uids[begin : begin + CHUNK]
            yield identifier


def _storage_contexts(wanted: Sequence[KnownInstance]) -> tuple[list[PresentationContext], list[UID]]:
    """Contexts to be sent the instances in, and their SOP classes; as many as one association can have beside C-GET."""
    told = dict.fromkeys(UID(i.sop_class_uid) for i in wanted if i.sop_class_uid)
    classes = list(told if all(i.sop_class_uid for i in wanted) else dict.fromkeys((*MR_CLASSES, *told)))
    classes = classes[: (MAX_CONTEXTS - 1) // len(TRANSFER_SYNTAXES)]
    return [build_context(sop_class, syntax) for sop_class in classes for syntax in TRANSFER_SYNTAXES], classes


def _check_contexts(association: Association, peer: Peer) -> None:
    accepted = association.accepted_contexts
    if not any(context.abstract_syntax == STUDY_ROOT_GET for context in accepted):
        raise PermanentError(f'{describe(peer)} does not offer C-GET (Study Root): set query of the peer to "move"')
    if not any(context.as_scp for context in accepted):
        raise PermanentError(
            f'{describe(peer)} offers C-GET, but no storage context in which it sends: set query of the peer to "move"'
        )


@dataclass(slots=True)
class _Receiving:
    """The provider's side of C-GET: takes what the peer sends for one study."""

    peer: Peer
    study_uid: str
    keep: Keep
    wanted: int
    progress: Progress | None
    kept: int = 0
    trouble: Exception | None = None
    watch: Watch | None = None

    def on_store(self, event: evt.Event) -> int:
        """Status of one sub-operation."""
        request = cast(C_STORE, event.request)
        dataset = b"" if request.DataSet is None else event.encoded_dataset(include_meta=False)
        sop_class, sop_uid = str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID)
        if self.watch is not None and self.watch.why:
            return OUT_OF_RESOURCES  # the connection is closed already: too much came at once
        status = self._take(sop_class, sop_uid, str(event.context.transfer_syntax), dataset)
        if self.watch is not None:
            self.watch.consumed()
        return status

    def _take(self, sop_class: str, sop_uid: str, syntax: str, dataset: bytes) -> int:
        try:
            found = read_uids(dataset, syntax)
        except UnreadableHeader as error:
            log.warning("instance %s fetched is unreadable: %s", sop_uid, error, extra={"event": "fetched_unreadable"})
            return CANNOT_UNDERSTAND
        except MissingUid as error:
            log.warning("instance %s fetched lacks a UID: %s", sop_uid, error, extra={"event": "fetched_unreadable"})
            return DOES_NOT_MATCH
        if (found.sop_class, found.sop_instance, found.study) != (sop_class, sop_uid, self.study_uid):
            log.warning("instance %s was not asked for", sop_uid, extra={"event": "fetched_wrong"})
            return DOES_NOT_MATCH
        meta = file_meta(sop_class_uid=sop_class, sop_instance_uid=sop_uid, transfer_syntax_uid=syntax)
        try:
            self.keep(
                FetchedInstance(
                    study_instance_uid=found.study,
                    series_instance_uid=found.series,
                    sop_instance_uid=sop_uid,
                    sop_class_uid=sop_class,
                    transfer_syntax_uid=syntax,
                    chunks=(meta, dataset),
                )
            )
            self.kept += 1
            if self.progress is not None:
                self.progress(self.kept, self.wanted)
        except Exception as error:  # noqa: BLE001  pynetdicom would swallow it; who asked for the instances gets it
            self.trouble = self.trouble or error
            return OUT_OF_RESOURCES
        return SUCCESS


def _retrieve(begin: Callable[[], Responses], operation: str, peer: Peer, watch: Watch) -> int:
    """One C-GET or C-MOVE to its end; how many sub-operations failed."""
    try:
        begun = begin()
    except (RuntimeError, ValueError) as error:
        raise PeerAway(f"{describe(peer)} ended the association before {operation}") from error
    for status, elements, _ in responses(begun, operation, peer, watch):
        if status in (SUCCESS, SOME_FAILED):
            return int(elements.get("NumberOfFailedSuboperations") or 0)
        if status == MOVE_DESTINATION_UNKNOWN:
            raise PermanentError(
                f"{describe(peer)} knows no move destination of our AE title: register it there, with host and port"
            )
        if status not in PENDING:
            raise failure(status, operation, peer)
    return 0
