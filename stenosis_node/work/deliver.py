"""The delivering worker: a thread per peer, so that one dead peer holds up no other."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from stenosis_node.config import Config
from stenosis_node.errors import LeaseLost
from stenosis_node.jobs import JobStore
from stenosis_node.spool import Spool
from stenosis_node.work.errands import Commitment, Delivery, Desk, Errand, Withdrawal, documents_for
from stenosis_node.work.keeper import LeaseKeeper, work_until
from stenosis_node.work.policy import Consequence, consequence, log_consequence, sentence

__all__ = ["DeliverWorker", "deliver_to_all", "documents_for"]

log = logging.getLogger("stenosis_node.work.deliver")

STOP_S: Final = 5.0


class DeliverWorker:
    """Everything that is done at one peer, one errand after the other."""

    def __init__(self, name: str, config: Config, spool: Spool, store: JobStore, *, worker: str) -> None:
        self._desk = Desk(name, config, spool, store, worker)

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. An errand under way is then given back after the document being sent."""
        work_until(stop, lambda: self.step(stop))

    def step(self, stop: threading.Event) -> bool:
        """Claim and do one errand; False when none is due. Raises TransientError when the database is away."""
        errand = self._claim()
        if errand is None:
            return False
        with LeaseKeeper(errand.renew, every_s=self._desk.lease_s / 3, stop=stop) as keeper:
            try:
                errand.do(keeper)
            except Exception as error:  # noqa: BLE001  POLICY says what follows from each
                self._conclude(errand, error)
        return True

    def _claim(self) -> Errand | None:
        """What must not wait first: a recalled result is taken back before anything new is sent."""
        return Withdrawal.claim(self._desk) or Delivery.claim(self._desk) or Commitment.claim(self._desk)

    def _conclude(self, errand: Errand, error: Exception) -> None:
        """What POLICY says. Raises TransientError when the database is away: the lease then ends by itself."""
        text = sentence(error)
        log_consequence(log, error, errand.what, attempt=errand.attempt)
        try:
            match consequence(error):
                case Consequence.DROP:
                    pass
                case Consequence.RELEASE:
                    errand.release()
                case Consequence.REJECT | Consequence.FAIL:
                    errand.fail(text)
                case Consequence.RETRY:
                    errand.retry(text)
        except LeaseLost:
            log.info("%s went to someone else meanwhile", errand.what, extra={"event": "lease_lost"})


def deliver_to_all(config: Config, spool: Spool, store: JobStore, stop: threading.Event, *, worker: str) -> None:
    """Run a worker per peer that gets results until ``stop`` is set.

    RuntimeError when one died: the supervisor then restarts us.
    """
    threads = [
        threading.Thread(
            target=DeliverWorker(name, config, spool, store, worker=worker).run, args=(stop,), name=name, daemon=True
        )
        for name, peer in config.peers.items()
        if peer.results
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(1.0):
        if not all(thread.is_alive() for thread in threads):
            raise RuntimeError("the thread of a peer ended unexpectedly")
    deadline = time.monotonic() + STOP_S
    # one that waits for its peer is left behind: what it sends next has not been claimed by anyone else
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
