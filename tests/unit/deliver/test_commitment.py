"""request_commitment(): peers that answer at once, later, in part, wrongly or not at all; over real sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE

from stenosis_node.config import Peer
from stenosis_node.deliver import request_commitment
from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.wire.commitment import CommitmentReport
from tests.conftest import free_port
from tests.unit.deliver.committer import Committer, committing, report

DOCUMENTS = (("1.2.840.10008.5.1.4.1.1.7", "2.25.1"), ("1.2.840.10008.5.1.4.1.1.88.34", "2.25.2"))
ALL = frozenset({"2.25.1", "2.25.2"})


@pytest.fixture
def committer() -> Iterator[Committer]:
    with committing() as made:
        yield made


def ask(
    peer: Peer, reports: list[CommitmentReport], *, known: bool = True, wait_s: float = 3.0, **options: Any
) -> bool:
    def take(one: CommitmentReport) -> bool:
        reports.append(one)
        return known

    return request_commitment(
        DOCUMENTS, peer, calling_ae_title="S", transaction_uid="2.25.77", on_report=take, wait_s=wait_s, **options
    )


def test_an_answer_on_the_same_association(committer: Committer) -> None:
    committer.after_response = lambda a, t: committer.tell(a, report(t, ALL))
    reports: list[CommitmentReport] = []
    begin = time.monotonic()
    assert ask(committer.peer, reports)
    assert time.monotonic() - begin < 1.5
    assert reports == [CommitmentReport("2.25.77", ALL)]
    (asked,) = committer.asked
    assert asked.TransactionUID == "2.25.77"
    wanted = [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in asked.ReferencedSOPSequence]
    assert wanted == list(DOCUMENTS)
    assert committer.replies.get(timeout=2) == 0x0000


def test_an_answer_before_the_response_to_the_request(committer: Committer) -> None:
    committer.before_response = lambda a, t: committer.tell(a, report(t, ALL))
    reports: list[CommitmentReport] = []
    assert ask(committer.peer, reports)
    assert reports == [CommitmentReport("2.25.77", ALL)]
    assert committer.replies.get(timeout=2) == 0x0000


def test_some_documents_are_not_kept(committer: Committer) -> None:
    committer.after_response = lambda a, t: committer.tell(
        a, report(t, ["2.25.1", "2.25.2"], {"2.25.2": 0x0112}), kind=2
    )
    reports: list[CommitmentReport] = []
    assert ask(committer.peer, reports)
    assert reports == [CommitmentReport("2.25.77", frozenset({"2.25.1"}), {"2.25.2": 0x0112})]


def test_no_answer_on_this_association_is_fine(committer: Committer) -> None:
    reports: list[CommitmentReport] = []
    begin = time.monotonic()
    assert not ask(committer.peer, reports, wait_s=0.3)
    assert 0.3 <= time.monotonic() - begin < 1.5
    begin = time.monotonic()
    assert not ask(committer.peer, reports, wait_s=20, may_wait=lambda: False)
    assert time.monotonic() - begin < 1.5
    committer.after_response = lambda a, t: a.release()
    assert not ask(committer.peer, reports, wait_s=20)
    assert reports == []


@pytest.mark.parametrize(
    ("kind", "instance", "information", "status"),
    [
        (3, "", report("2.25.77", ALL), 0x0113),
        (1, "1.2.3", report("2.25.77", ALL), 0x0112),
        (1, "", report("", ALL), 0x0115),
        (1, "", report("not a UID", ALL), 0x0115),
    ],
)
def test_reports_that_cannot_be_understood(
    committer: Committer, kind: int, instance: str, information: Dataset, status: int
) -> None:
    committer.after_response = lambda a, t: committer.tell(a, information, kind=kind, instance=instance)
    reports: list[CommitmentReport] = []
    ask(committer.peer, reports)
    assert (reports, committer.replies.get(timeout=2)) == ([], status)


def test_a_report_nobody_asked_for_is_answered_with_a_failure(committer: Committer) -> None:
    committer.after_response = lambda a, t: committer.tell(a, report("2.25.66", ALL))
    ask(committer.peer, [], known=False)
    assert committer.replies.get(timeout=2) == 0x0115


def test_a_report_that_cannot_be_kept_is_answered_with_a_failure(committer: Committer) -> None:
    def away(_: CommitmentReport) -> bool:
        raise TransientError("the database is away")

    committer.after_response = lambda a, t: committer.tell(a, report(t, ALL))
    request_commitment(DOCUMENTS, committer.peer, calling_ae_title="S", transaction_uid="2.25.77", on_report=away)
    assert committer.replies.get(timeout=2) == 0x0213


@pytest.mark.parametrize(
    ("status", "error"),
    [(0x0110, TransientError), (0x0213, TransientError), (0xD001, TransientError), (0x0122, PermanentError),
     (0x0123, PermanentError), (0x0124, PermanentError), (0x0112, PermanentError)],
)  # fmt: skip
def test_refusals_are_classified(committer: Committer, status: int, error: type[Exception]) -> None:
    committer.status = status
    with pytest.raises(error, match=f"0x{status:04X}"):
        ask(committer.peer, [])


def test_a_peer_without_the_service(committer: Committer) -> None:
    ae = AE("ARCHIVE")
    ae.add_supported_context("1.2.840.10008.1.1")
    server = ae.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    port = server.server_address[1]
    with pytest.raises(PermanentError, match=r"Storage Commitment Push Model.*or set commitment = false"):
        ask(Peer(ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout_s=1), [])
    server.shutdown()


def test_a_peer_that_is_away_aborts_or_hangs(committer: Committer) -> None:
    with pytest.raises(TransientError, match="refused the connection"):
        ask(Peer(ae_title="ARCHIVE", host="127.0.0.1", port=free_port(), timeout_s=1), [])
    committer.before_response = lambda a, t: a.abort()
    with pytest.raises(TransientError, match="aborted or did not answer"):
        ask(committer.peer, [])
    committer.before_response = lambda a, t: time.sleep(2.5)
    begin = time.monotonic()
    with pytest.raises(TransientError, match="aborted or did not answer"):
        ask(committer.peer, [])
    assert time.monotonic() - begin < 2.5
