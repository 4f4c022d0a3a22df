"""Reports of storage commitment over associations that the peer opens."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from stenosis_node.config import Peer
from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.receive import Receiver
from stenosis_node.wire.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from tests.unit.deliver.committer import report
from tests.unit.jobs.drive import claimed, claimed_delivery, detail, grade, receive
from tests.unit.receive.conftest import Node, StartNode

BOTH = ("8.11.1", "8.11.2")
TRANSACTION = "2.25.777"


@pytest.fixture
def node(start_node: StartNode) -> Node:
    """A node that waits for the commitment of the peer ARCHIVE to two documents."""
    node = start_node()
    node.receiver.stop()
    peer = Peer(ae_title="ARCHIVE", host="127.0.0.1", port=104, commitment=True, retry_base_s=7)
    node.config = node.config.model_copy(update={"peers": {"pacs": peer}})
    node.receiver = Receiver(node.config, node.spool, node.store)
    node.receiver.start()
    receive(node.store, 1, 0)
    grade(node.store, claimed(node.store, 15), 20, key="11" * 8)
    lease = claimed_delivery(node.store, 30)
    for uid in BOTH:
        node.store.record_document(lease, uid, status=0, text="stored", now=None)
    node.store.advance_delivery(lease, commitment=True)
    asking = node.store.claim_commitment("pacs", worker="w", lease_s=60)
    assert asking is not None
    assert {uid for _, uid in asking.documents} == set(BOTH)
    node.store.request_commitment(asking, transaction_uid=TRANSACTION, due_at=asking.lease_until)
    node.store.release_commitment(asking)
    return node


@contextmanager
def association(
    node: Node, calling: str = "ARCHIVE", *, roles: tuple[bool, bool] | None = (False, True)
) -> Iterator[Association]:
    """Of an archive. ``roles``: SCU and SCP as proposed; None: no role selection."""
    ae = AE(calling)
    negotiation = [] if roles is None else [build_role(PUSH_MODEL, scu_role=roles[0], scp_role=roles[1])]
    contexts = [build_context(PUSH_MODEL, ExplicitVRLittleEndian), build_context("1.2.840.10008.1.1")]
    made = ae.associate("127.0.0.1", node.port, contexts=contexts, ae_title="STENOSIS", ext_neg=negotiation)
    try:
        yield made
    finally:
        if made.is_established:
            made.release()


def tell(made: Association, information: Dataset, kind: int = 1) -> int | None:
    status, _ = made.send_n_event_report(information, kind, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    return status.get("Status")


def takes(made: Association) -> bool:
    return PUSH_MODEL in {context.abstract_syntax for context in made.accepted_contexts}


@pytest.mark.parametrize("roles", [(False, True), (True, True), None])
def test_delivered_and_committed(node: Node, roles: tuple[bool, bool] | None) -> None:
    with association(node, roles=roles) as made:
        assert tell(made, report(TRANSACTION, BOTH)) == 0x0000
        assert tell(made, report(TRANSACTION, BOTH)) == 0x0000  # it did not get our response the first time
    job = detail(node.store)
    assert job.job.state is JobState.DELIVERED
    assert job.deliveries[0].committed_at is not None
    assert [e.sentence for e in job.events if "delivered and committed" in e.sentence]


def test_another_ae_title_of_the_archive_may_report(node: Node) -> None:
    with association(node, "ARCHIVE2") as made:
        assert tell(made, report(TRANSACTION, BOTH)) == 0x0000
    assert detail(node.store).job.state is JobState.DELIVERED


def test_what_the_archive_does_not_keep_is_sent_again_alone(node: Node) -> None:
    with association(node) as made:
        assert tell(made, report(TRANSACTION, BOTH[:1], {BOTH[1]: 0x0112}), kind=2) == 0x0000
    delivery = detail(node.store).deliveries[0]
    assert delivery.state is DeliveryState.PENDING
    assert {r.sop_instance_uid for r in delivery.receipts if r.confirmed} == {BOTH[0]}


@pytest.mark.parametrize(
    ("information", "kind", "status"),
    [
        (report("2.25.1", BOTH), 1, 0x0115),
        (report("", BOTH), 1, 0x0115),
        (report(TRANSACTION, BOTH), 9, 0x0113),
    ],
)
def test_what_nobody_asked_for_changes_nothing(node: Node, information: Dataset, kind: int, status: int) -> None:
    with association(node) as made:
        assert tell(made, information, kind) == status
    job = detail(node.store)
    assert (job.job.state, job.deliveries[0].state) == (JobState.GRADED, DeliveryState.SENT)


def test_who_may_report(node: Node, start_node: StartNode, tmp_path: Path) -> None:
    """Not whoever wants us to commit to something, not a stranger without role selection, and not without peers."""
    with association(node, roles=(True, False)) as made:
        assert not takes(made)
    with association(node, "STRANGER", roles=None) as made:
        assert not takes(made)
        assert made.send_c_echo().Status == 0
    with association(start_node()) as made:
        assert not takes(made)
    strict = start_node(calling_ae_titles=["SCANNER"])
    with association(strict) as made:
        assert made.is_rejected


def test_an_archive_that_is_a_peer_need_not_be_listed(node: Node) -> None:
    node.receiver.stop()
    strict = node.config.receive.model_copy(update={"calling_ae_titles": ("SCANNER",)})
    node.config = node.config.model_copy(update={"receive": strict})
    node.receiver = Receiver(node.config, node.spool, node.store)
    node.receiver.start()
    with association(node) as made:
        assert takes(made)
    with association(node, "OTHER") as made:
        assert made.is_rejected


def test_many_reports_at_once(node: Node) -> None:
    """Each association has its thread, and a peer may report in pieces."""
    statuses: list[int | None] = []

    def one(committed: Sequence[str]) -> None:
        with association(node) as made:
            statuses.append(tell(made, report(TRANSACTION, committed)))

    threads = [threading.Thread(target=one, args=([uid],)) for uid in BOTH for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0x0000] * 6
    assert detail(node.store).job.state is JobState.DELIVERED
