"""Whatever happens in whatever order: one worker per job, nothing sent twice, no job forgotten, no recall undone."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from stenosis_node.domain import DeliveryState, JobState
from stenosis_node.errors import LeaseLost, PermanentError, TransientError
from stenosis_node.jobs import (
    CheckLease,
    CommitmentOutcome,
    DeliveryLease,
    JobDetail,
    JobStore,
    Lease,
    PeerSpec,
    Step,
    WithdrawalState,
)
from tests.unit.jobs.conftest import empty
from tests.unit.jobs.drive import CT, QUIET, at, claim, claim_delivery, document, receive

STUDIES = ("1.1", "1.2")
PEERS = (PeerSpec("pacs"), PeerSpec("archive"), PeerSpec("mirror", required=False))
MAX_ATTEMPTS = 3

studies = st.sampled_from(STUDIES)
ages = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 5])
"""How many leases were given since: usually the holder acts, sometimes one who should have stopped."""


class Node(RuleBasedStateMachine):
    """Reception, graders, senders and an administrator on one store. Leases are kept and used long after they ended."""

    store: JobStore

    def __init__(self) -> None:
        super().__init__()
        empty(self.store)
        self.now = 0.0
        self.sent = 0
        self.leases: list[Lease] = []
        self.sendings: list[DeliveryLease] = []
        self.holder: dict[int, str] = {}  # job: token of who may advance it
        self.sender: dict[int, str] = {}  # delivery: likewise
        self.confirmed: dict[tuple[int, str], set[str]] = {}  # job and peer: what the peer confirmed
        self.named: dict[str, list[int]] = {}  # token of a grader: what its result says it supersedes
        self.checks: list[CheckLease] = []
        self.asked: list[tuple[str, int, str, str]] = []  # transaction, job, peer, document
        self.paused: set[str] = set()

    # ----------------------------------------------------------------- reception

    @rule(study=studies, number=st.integers(0, 3))
    def an_instance_comes(self, study: str, number: int) -> None:
        before = self.store.job(study)
        touch = receive(self.store, number, self.now, study=study)
        assert touch.job_id is not None
        if touch.new_instance:
            state = self.detail(touch.job_id).job.state
            if before is not None and before.job.state == JobState.CANCELLED and not touch.reopened:
                assert state == JobState.CANCELLED
                assert at(self.now - QUIET) < before.job.last_instance_at
            else:
                assert state == JobState.RECEIVED
        if touch.reopened:
            self.forget_holders(touch.job_id)

    @rule(study=studies, number=st.integers(10, 12))
    def an_instance_that_is_no_mr_comes(self, study: str, number: int) -> None:
        before = self.store.job(study)
        receive(self.store, number, self.now, study=study, sop_class=CT)
        after = self.store.job(study)
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert (after.job.state, after.job.quiet_until) == (before.job.state, before.job.quiet_until)

    @rule(seconds=st.sampled_from([1, QUIET, 31, 61]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # ----------------------------------------------------------------- completeness

    @rule()
    def a_check_begins(self) -> None:
        lease = self.store.claim_check(worker="checker", lease_s=60, now=at(self.now))
        if lease is not None:
            job = self.detail(lease.job_id).job
            assert (job.state, job.complete_because) == (JobState.RECEIVED, None)
            assert job.quiet_until <= at(self.now)
            self.checks.append(lease)

    @precondition(lambda self: self.checks)
    @rule(age=ages, what=st.sampled_from(["conclude", "conclude", "fetch", "release"]))
    def a_check_ends(self, age: int, what: str) -> None:
        lease = self.checks[-1 - age % len(self.checks)]
        before = self.detail(lease.job_id).job
        now = at(self.now)
        try:
            match what:
                case "conclude":
                    concluded = self.store.conclude_check(lease, because="quiet", now=now)
                    assert concluded or before.last_instance_at > lease.last_instance_at
                case "fetch":
                    self.store.postpone_check(lease, retry_at=now, sentence="fetched", fetched=True, now=now)
                case _:
                    self.store.release_check(lease)
        except LeaseLost:
            pass
        else:
            assert (before.state, before.complete_because) == (JobState.RECEIVED, None), "somebody else had the job"

    # ----------------------------------------------------------------- graders

    @rule()
    def a_study_is_graded(self) -> None:
        """What usually happens."""
        self.now += QUIET
        self.a_grader_claims()
        if self.leases:
            self.a_grader_acts(0, "grade")

    @rule()
    def a_grader_claims(self) -> None:
        held = {d.job.id for d in self.details() if d.job.lease_until is not None and d.job.lease_until > at(self.now)}
        lease = claim(self.store, self.now, max_attempts=MAX_ATTEMPTS)
        if lease is not None:
            assert lease.job_id not in held, "two workers have one job"
            assert self.detail(lease.job_id).job.complete_because is not None
            assert lease.attempt <= MAX_ATTEMPTS
            self.leases.append(lease)
            self.holder[lease.job_id] = lease.token
            self.named[lease.token] = self.predecessors(lease.job_id)

    @precondition(lambda self: self.leases)
    @rule(
        age=ages,
        what=st.sampled_from(["grade", "grade", "grade the same", "reject", "fail", "retry", "renew", "release"]),
    )
    def a_grader_acts(self, age: int, what: str) -> None:
        lease = self.leases[-1 - age % len(self.leases)]
        may = self.holder.get(lease.job_id) == lease.token
        try:
            self.act(lease, what)
        except LeaseLost:
            assert not may, "whoever holds the lease can use it"
        else:
            assert may, "somebody else had the job"
            if what != "renew":
                del self.holder[lease.job_id]

    def act(self, lease: Lease, what: str) -> None:
        now = at(self.now)
        match what:
            case "grade" | "grade the same":
                n = len(self.store.instances(lease.job_id)) if what == "grade" else 1
                key = f"{lease.job_id:08x}{n:08x}"
                before = self.store.latest_result(lease.job_id)
                predecessors = self.predecessors(lease.job_id)
                self.store.advance_graded(
                    lease, result_key=key, chosen_key=key, documents=[document(f"8.{key}")], peers=PEERS, now=now
                )
                assert predecessors == self.named[lease.token], "a result left that its successor does not name"
                same = before is not None and before.result_key == key
                if same and self.detail(lease.job_id).results[-1].withdrawn_at is not None:
                    assert self.detail(lease.job_id).job.state == JobState.CANCELLED, "a recalled result is sent again"
                revision = 0 if before is None else before.revision
                assert self.detail(lease.job_id).job.revision == revision + (0 if same else 1)
            case "reject":
                self.store.reject(lease, reason="no-candidate", sentence="none", now=now)
            case "fail":
                self.store.fail(lease, sentence="broken", now=now)
            case "retry":
                self.store.retry_later(
                    lease, retry_at=at(self.now + 30), sentence="later", max_attempts=MAX_ATTEMPTS, now=now
                )
            case "renew":
                self.store.renew(lease, lease_s=60, now=now)
            case _:
                self.store.release(lease, now=now)

    @rule()
    def the_grading_process_dies(self) -> None:
        self.store.free_leases_of("grader", now=at(self.now))
        self.holder.clear()

    # ----------------------------------------------------------------- senders

    @rule(peer=st.sampled_from(PEERS))
    def a_sender_claims(self, peer: PeerSpec) -> None:
        sending = claim_delivery(self.store, self.now, peer.name, max_attempts=MAX_ATTEMPTS)
        if sending is None:
            return
        assert peer.name not in self.paused
        detail = self.detail(sending.job_id)
        assert detail.job.state in (JobState.GRADED, JobState.DELIVERED, JobState.FAILED)
        assert sending.revision == detail.job.revision, "an older result must not leave any more"
        assert sending.confirmed == self.confirmed.get((sending.job_id, peer.name), set())
        self.sendings.append(sending)
        self.sender[sending.delivery_id] = sending.token

    @precondition(lambda self: self.sendings)
    @rule(age=ages, what=st.sampled_from(["confirm", "refuse", "done", "sent", "sent", "fail", "retry", "release"]))
    def a_sender_acts(self, age: int, what: str) -> None:
        sending = self.sendings[-1 - age % len(self.sendings)]
        may = self.sender.get(sending.delivery_id) == sending.token
        now = at(self.now)
        uid = f"8.{sending.result_key}"
        try:
            match what:
                case "confirm":
                    self.confirm(sending)
                case "refuse":
                    self.store.record_document(sending, uid, status=0xA700, text="", now=now)
                case "done":
                    self.store.advance_delivery(sending, now=now)
                case "sent":
                    self.confirm(sending)
                    self.store.advance_delivery(sending, commitment=True, now=now)
                case "fail":
                    self.store.fail_delivery(sending, sentence="refused", now=now)
                case "retry":
                    later = at(self.now + 30)
                    self.store.retry_delivery_later(
                        sending, retry_at=later, sentence="later", max_attempts=MAX_ATTEMPTS, now=now
                    )
                case _:
                    self.store.release_delivery(sending, now=now)
        except LeaseLost:
            assert not may
        else:
            assert may
            if what not in ("confirm", "refuse"):
                del self.sender[sending.delivery_id]

    def confirm(self, sending: DeliveryLease) -> None:
        """What a peer has it has, whoever the lease belongs to now."""
        uid = f"8.{sending.result_key}"
        self.confirmed.setdefault((sending.job_id, sending.peer), set()).add(uid)
        self.store.record_document(sending, uid, status=0, text="", now=at(self.now))

    # ----------------------------------------------------------------- commitment and withdrawals

    @rule(peer=st.sampled_from(PEERS), wait_s=st.sampled_from([1, 1000]))
    def commitment_is_asked_for(self, peer: PeerSpec, wait_s: float) -> None:
        lease = self.store.claim_commitment(peer.name, worker="sender", lease_s=60, now=at(self.now))
        if lease is None:
            return
        assert peer.name not in self.paused
        assert lease.revision == self.detail(lease.job_id).job.revision
        ((_, uid),) = lease.documents
        assert uid in self.confirmed[lease.job_id, peer.name]
        transaction = f"7.{len(self.asked)}"
        self.asked.append((transaction, lease.job_id, peer.name, uid))
        due = at(self.now + wait_s)
        self.store.request_commitment(lease, transaction_uid=transaction, due_at=due, now=at(self.now))
        self.sender[lease.delivery_id] = lease.token
        self.store.release_commitment(lease)

    @precondition(lambda self: self.asked)
    @rule(age=ages, keeps=st.booleans())
    def a_peer_answers(self, age: int, keeps: bool) -> None:
        transaction, job_id, peer, uid = self.asked[-1 - age % len(self.asked)]
        before = self.detail(job_id)
        outcome = self.store.record_commitment(
            transaction, committed=[uid] if keeps else [], failed={} if keeps else {uid: 0x0112}, now=at(self.now)
        )
        after = self.detail(job_id)
        if outcome is CommitmentOutcome.INCOMPLETE:
            self.confirmed[job_id, peer].discard(uid)
        elif outcome is CommitmentOutcome.COMMITTED:
            self.confirmed[job_id, peer].add(uid)
        elif outcome is CommitmentOutcome.REPEATED:
            assert before == after
        for delivery in after.deliveries:
            if delivery not in before.deliveries:
                self.sender.pop(delivery.id, None)
        if before.job.state in (JobState.RECEIVED, JobState.CANCELLED):
            assert after.job == before.job, "an answer opens or ends nothing"

    @rule(peer=st.sampled_from(PEERS), arrives=st.booleans())
    def a_note_is_sent(self, peer: PeerSpec, arrives: bool) -> None:
        lease = self.store.claim_withdrawal(
            peer.name, worker="sender", lease_s=60, max_attempts=MAX_ATTEMPTS, now=at(self.now)
        )
        if lease is None:
            return
        assert peer.name not in self.paused
        if arrives:
            self.store.advance_withdrawal(lease, now=at(self.now))
        else:
            self.store.fail_withdrawal(lease, sentence="refused", now=at(self.now))

    @rule(peer=st.sampled_from(PEERS))
    def a_peer_is_paused_or_resumed(self, peer: PeerSpec) -> None:
        if peer.name in self.paused:
            self.paused.discard(peer.name)
            self.store.resume_peer(peer.name, now=at(self.now))
        else:
            self.paused.add(peer.name)
            self.store.pause_peer(peer.name, why="", now=at(self.now))

    # ----------------------------------------------------------------- the administrator

    @rule(study=studies, note=st.sampled_from(["ee" * 8, None]))
    def the_administrator_recalls(self, study: str, note: str | None) -> None:
        found = self.store.job(study)
        if found is None:
            return
        targets = self.store.recallable(job_id=found.job.id)
        if not targets:
            return
        notes = {(one.result_id, one.peer): note for one in targets}
        try:
            self.store.recall(targets, why="wrong", notes=notes, now=at(self.now))
        except TransientError:
            assert any(d.worker is not None for d in found.deliveries)
            return
        detail = self.detail(found.job.id)
        assert all(result.withdrawn_at is not None for result in detail.results)
        withdrawn: dict[str, set[str]] = {}
        for one in detail.withdrawals:
            withdrawn.setdefault(one.peer, set()).update(one.sop_instance_uids)
        for (job_id, peer), confirmed in self.confirmed.items():
            if job_id == found.job.id:
                assert confirmed <= withdrawn.get(peer, set()), "a peer keeps what was recalled"
        if any(target.is_latest for target in targets):
            assert detail.job.state == JobState.CANCELLED
            self.forget_holders(found.job.id)

    @rule(peer=st.sampled_from(PEERS))
    def the_administrator_retries_a_peer(self, peer: PeerSpec) -> None:
        self.store.retry_peer(peer.name, now=at(self.now))
        assert not any(
            one.state is WithdrawalState.FAILED and one.peer == peer.name
            for detail in self.details()
            for one in detail.withdrawals
        )

    @rule(study=studies)
    def the_administrator_retries(self, study: str) -> None:
        found = self.store.job(study)
        if found is None:
            return
        try:
            state = self.store.retry(found.job.id, now=at(self.now))
        except PermanentError:
            assert found.job.state in (JobState.RECEIVED, JobState.GRADED, JobState.DELIVERED)
        else:
            assert state in (JobState.RECEIVED, JobState.GRADED, JobState.DELIVERED) or found.withdrawals
            if found.job.state == JobState.RECEIVED:
                self.holder.pop(found.job.id, None)

    @rule(study=studies)
    def the_administrator_cancels(self, study: str) -> None:
        found = self.store.job(study)
        if found is None:
            return
        try:
            self.store.cancel(found.job.id, now=at(self.now))
        except PermanentError:
            assert found.job.state in (JobState.DELIVERED, JobState.REJECTED, JobState.CANCELLED)
        else:
            self.forget_holders(found.job.id)

    # ----------------------------------------------------------------- what always holds

    def detail(self, job_id: int) -> JobDetail:
        found = self.store.job(job_id)
        assert found is not None
        return found

    def predecessors(self, job_id: int) -> list[int]:
        return [result.revision for result in self.store.predecessors(job_id)]

    def details(self) -> list[JobDetail]:
        return [self.detail(job.id) for job in self.store.list_jobs()]

    def forget_holders(self, job_id: int) -> None:
        self.holder.pop(job_id, None)
        for delivery in self.detail(job_id).deliveries:
            self.sender.pop(delivery.id, None)

    @invariant()
    def the_state_says_what_the_deliveries_say(self) -> None:
        for detail in self.details():
            latest = [d for d in detail.deliveries if d.revision == detail.job.revision]
            required = [d.state for d in latest if d.required]
            older = [d.state for d in detail.deliveries if d.revision < detail.job.revision]
            assert not {DeliveryState.PENDING, DeliveryState.SENT} & set(older)
            for result in detail.results:
                if result.withdrawn_at is not None:
                    of_result = {d.state for d in detail.deliveries if d.revision == result.revision}
                    assert of_result <= {DeliveryState.DELIVERED, DeliveryState.CANCELLED}
            match detail.job.state:
                case JobState.DELIVERED:
                    assert required
                    assert set(required) == {DeliveryState.DELIVERED}
                case JobState.GRADED:
                    assert {DeliveryState.PENDING, DeliveryState.SENT} & set(required)
                    assert DeliveryState.FAILED not in required
                case JobState.FAILED if detail.job.failed_in == Step.DELIVER:
                    assert DeliveryState.FAILED in required
                case JobState.RECEIVED:
                    assert all(d.worker is None for d in detail.deliveries), "an old result leaves an open study"
                case _:
                    pass
            if detail.job.state != JobState.RECEIVED:
                assert detail.job.worker is None
            assert [r.revision for r in detail.results] == list(range(1, detail.job.revision + 1))
            assert detail.job.n_instances == len(self.store.instances(detail.job.id))

    def teardown(self) -> None:
        """In a world without faults every job that is not over comes to its end by itself."""
        self.now += 10_000
        while (lease := claim(self.store, self.now, max_attempts=MAX_ATTEMPTS)) is not None:
            self.named[lease.token] = self.predecessors(lease.job_id)
            self.act(lease, "grade")
        for peer in PEERS:
            self.store.resume_peer(peer.name, now=at(self.now))
            while (sending := claim_delivery(self.store, self.now, peer.name, max_attempts=MAX_ATTEMPTS)) is not None:
                self.store.advance_delivery(sending, now=at(self.now))
            name, now = peer.name, at(self.now)
            while (asking := self.store.claim_commitment(name, worker="w", lease_s=60, now=now)) is not None:
                transaction = f"6.{asking.delivery_id}"
                self.store.request_commitment(asking, transaction_uid=transaction, due_at=now, now=now)
                self.store.record_commitment(
                    transaction, committed=[u for _, u in asking.documents], failed={}, now=now
                )
        for detail in self.details():
            assert detail.job.state not in (JobState.RECEIVED, JobState.GRADED), "forgotten"
        super().teardown()


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_whatever_happens_in_whatever_order(shared_store: JobStore) -> None:
    class OnThisStore(Node):
        store = shared_store

    run_state_machine_as_test(
        OnThisStore,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
