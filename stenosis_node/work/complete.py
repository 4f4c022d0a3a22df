"""The check before grading: is a quiet study complete? Where its source can be asked, its instances are compared.

The quiet period and open associations are in the store's ``quiet_until`` already, so what is claimed here is quiet, or
has reached its ceiling. Every check ends in a sentence, ``complete_because``; without one a study is not graded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from stenosis_node.config import Config
from stenosis_node.errors import LeaseLost, TransientError
from stenosis_node.failpoint import failpoint
from stenosis_node.jobs import CheckLease, JobStore
from stenosis_node.query import KnownInstance
from stenosis_node.spool import Spool
from stenosis_node.work.keeper import LeaseKeeper, work_until
from stenosis_node.work.policy import BackOff, Consequence, consequence, log_consequence, sentence
from stenosis_node.work.source import Source

log = logging.getLogger("stenosis_node.work.complete")

POLL_S: Final = 0.2
MAX_ROUNDS: Final = 3
"""How often a gap is fetched or waited for, or a source that is away is asked again."""
MAX_CHECKS: Final = 16
"""Checks that wait for one source at the same time. Further studies of it are left alone up to their ceiling."""


class CompletenessChecker:
    """Concludes the check of each study. One that has no source to ask never waits for one that has."""

    def __init__(self, config: Config, spool: Spool, store: JobStore, *, worker: str) -> None:
        self._jobs = config.jobs
        self._store = store
        self._worker = worker
        asked = [Source(name, config, spool, store) for name, peer in config.peers.items() if peer.query != "none"]
        self._sources = {source.ae_title: source for source in asked}
        self._asking: dict[str, list[threading.Thread]] = {title: [] for title in self._sources}
        self._fetched: dict[int, tuple[int, int]] = {}
        """Per job how many were fetched of how many that were missing; only for the sentence."""

    def run(self, stop: threading.Event) -> None:
        """Check until ``stop`` is set."""
        while not stop.is_set():
            try:
                work_until(stop, lambda: self.step(stop), poll_s=POLL_S)
            except Exception:
                log.exception("a check was not begun", extra={"event": "not_done"})
                stop.wait(POLL_S)

    def step(self, stop: threading.Event) -> bool:
        """Claim a study; conclude, or begin to ask its source. False when none is due. TransientError: no database."""
        busy = self._busy()
        lease = self._store.claim_check(worker=self._worker, lease_s=self._jobs.lease_s, not_from=busy)
        if lease is None:
            return False
        failpoint("check.claimed")
        title = self._source_of(lease)
        try:
            if self._still_arriving(lease):
                self._conclude(lease, f"the ceiling of {self._jobs.ceiling_s:g} s passed while instances still arrived")
            elif title is None:
                self._conclude(lease, _quiet(lease, "no queried peer sends this study"))
            elif title in busy:
                said = f"the ceiling passed while {self._sources[title].name} was asked for other studies"
                self._conclude(lease, _quiet(lease, said))
            else:
                asking = threading.Thread(
                    target=self._check,
                    args=(lease, self._sources[title], stop),
                    name=f"check {lease.job_id}",
                    daemon=True,
                )
                self._asking[title].append(asking)
                asking.start()
        except LeaseLost:
            log.info("a study was taken away during its check", extra={"event": "lease_lost"})
        return True

    # ----------------------------------------------------------------- asking, in a thread of its own

    def _check(self, lease: CheckLease, source: Source, stop: threading.Event) -> None:
        def renew() -> None:
            self._store.renew_check(lease, lease_s=self._jobs.lease_s)

        try:
            with LeaseKeeper(renew, every_s=self._jobs.lease_s / 3, stop=stop) as keeper:
                try:
                    self._ask(lease, source, keeper)
                except Exception as error:  # noqa: BLE001  POLICY says what follows from each
                    self._not_asked(lease, source, error)
        except TransientError as error:
            log.error("a check ends with its lease: %s", error, extra={"event": "store_unavailable"})  # noqa: TRY400

    def _ask(self, lease: CheckLease, source: Source, keeper: LeaseKeeper) -> None:
        known = source.known(lease.study_instance_uid)
        keeper.check()
        missing = self._missing(lease, known)
        if not known:
            self._conclude(lease, _quiet(lease, f"{source.name} does not know this study"))
        elif not missing:
            self._conclude(lease, _quiet(lease, self._agrees(lease, source, known)))
        elif lease.fetch_rounds >= MAX_ROUNDS or (lease.past_ceiling and not source.fetches):
            self._conclude(lease, _quiet(lease, f"still missing {_gap(missing, known, source)}"))
        elif not source.fetches:
            self._later(lease, source, f"waiting for {_gap(missing, known, source)}")
        else:
            source.fetch(lease.study_instance_uid, missing, quiet_period_s=self._jobs.quiet_period_s)
            failpoint("check.fetched")
            self._after_fetching(lease, source, missing)

    def _after_fetching(self, lease: CheckLease, source: Source, missing: Sequence[KnownInstance]) -> None:
        """What came makes the study wait for another quiet period, and be compared once more."""
        n_came = len(missing) - len(self._missing(lease, missing))
        n_before, n_missing_before = self._fetched.get(lease.job_id, (0, 0))
        self._fetched[lease.job_id] = (n_before + n_came, max(n_missing_before, n_before + len(missing)))
        said = f"fetched {n_came} of {len(missing)} missing instances from {source.name}"
        log.info("job %d: %s", lease.job_id, said, extra={"event": "fetched", "peer": source.name})
        if lease.past_ceiling:
            self._conclude(lease, _quiet(lease, said))
        elif n_came == len(missing):
            self._store.postpone_check(lease, retry_at=datetime.now(UTC), sentence=said, fetched=True)
        else:
            self._later(lease, source, said)

    def _not_asked(self, lease: CheckLease, source: Source, error: Exception) -> None:
        """A source that is away holds a study up for a while, never for good."""
        log_consequence(log, error, f"job {lease.job_id}: asking {source.name}", attempt=lease.fetch_rounds + 1)
        try:
            match consequence(error):
                case Consequence.DROP:
                    self._fetched.pop(lease.job_id, None)
                case Consequence.RELEASE:
                    self._store.release_check(lease)
                case Consequence.REJECT | Consequence.FAIL:
                    self._conclude(lease, _quiet(lease, f"{source.name} could not be asked: {sentence(error)}"))
                case Consequence.RETRY if lease.fetch_rounds + 1 >= MAX_ROUNDS or lease.past_ceiling:
                    tried = "" if lease.fetch_rounds == 0 else f" {lease.fetch_rounds + 1} times"
                    self._conclude(lease, _quiet(lease, f"{source.name} could not be asked{tried}: {sentence(error)}"))
                case Consequence.RETRY:
                    self._later(lease, source, f"{source.name} could not be asked: {sentence(error)}")
        except LeaseLost:
            log.info("job %d was taken away during its check", lease.job_id, extra={"event": "lease_lost"})

    # ----------------------------------------------------------------- outcomes

    def _conclude(self, lease: CheckLease, because: str) -> None:
        self._fetched.pop(lease.job_id, None)
        if self._store.conclude_check(lease, because=because):
            log.info("job %d is complete: %s", lease.job_id, because, extra={"event": "complete"})
        failpoint("check.concluded")

    def _later(self, lease: CheckLease, source: Source, said: str) -> None:
        delay_s = BackOff(source.peer.retry_base_s, source.peer.retry_cap_s).delay_s(lease.fetch_rounds + 1)
        retry_at = datetime.now(UTC) + timedelta(seconds=delay_s)
        self._store.postpone_check(lease, retry_at=retry_at, sentence=said, fetched=True)

    # ----------------------------------------------------------------- what is known

    def _source_of(self, lease: CheckLease) -> str | None:
        """AE title of the peer that sent most of the study, among those that can be asked."""
        return next((title for title in lease.calling_ae_titles if title in self._sources), None)

    def _busy(self) -> list[str]:
        """AE titles of sources that enough checks wait for already."""
        for title, threads in self._asking.items():
            self._asking[title] = [thread for thread in threads if thread.is_alive()]
        return [title for title, threads in self._asking.items() if len(threads) >= MAX_CHECKS]

    def _still_arriving(self, lease: CheckLease) -> bool:
        quiet_at = lease.last_instance_at + timedelta(seconds=self._jobs.quiet_period_s)
        return lease.past_ceiling and datetime.now(UTC) < quiet_at

    def _missing(self, lease: CheckLease, known: Sequence[KnownInstance]) -> tuple[KnownInstance, ...]:
        received = self._store.received_uids(lease.job_id)
        return tuple(i for i in known if i.sop_instance_uid not in received)

    def _agrees(self, lease: CheckLease, source: Source, known: Sequence[KnownInstance]) -> str:
        n_fetched, n_missing = self._fetched.get(lease.job_id, (0, 0))
        if n_fetched:
            return f"fetched {n_fetched} of {n_missing} missing instances from {source.name}, which knows {len(known)}"
        return f"{source.name} knows the same {len(known)} instances"


def _quiet(lease: CheckLease, rest: str) -> str:
    quiet_s = (datetime.now(UTC) - lease.last_instance_at).total_seconds()
    return f"quiet for {quiet_s:.0f} s; {rest}" if quiet_s >= 1 else rest


def _gap(missing: Sequence[KnownInstance], known: Sequence[KnownInstance], source: Source) -> str:
    return f"{len(missing)} of the {len(known)} instances {source.name} knows"
