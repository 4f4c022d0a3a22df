"""Run cases against a receiving process and judge what it does.

A caller judges each answer by itself. After each round of cases the process must be the same, must serve a proper
sender, and must come back to the threads and descriptors it had when idle; its log must hold no fault. What a round
breaks is found by running its cases again, one by one (``--first`` and ``--cases`` of ``python -m tests.hostile``).
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.hostile.cases import Conversation, Object, make_case
from tests.hostile.datasets import MR, instance, uid
from tests.hostile.peer import ABORT, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RP, SUCCESS, Caller, associated
from tests.hostile.target import Target
from tests.unit.receive.raw_scu import EXPLICIT

STATUSES = frozenset({0x0000, 0xA700, 0xA900, 0xC000, 0x0122, 0x0211, 0x0117, 0x0105, 0x0106, 0x0110})
ANSWERS = (ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RP, ABORT, 5)
PROPER = 999_999_999
PEAK_BYTES = 64 << 20
"""More than the campaign may add to the memory of the idle process at any time: no case is larger than 1 MB."""


class Broken(AssertionError):
    """A case, or the state after a round of them, is not as it must be."""


@dataclass
class Tally:
    """What was run, and how it was answered."""

    n: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    peak: int = 0

    def __str__(self) -> str:
        said = ", ".join(f"{name} {count}" for name, count in self.answers.most_common())
        return f"{self.n} cases in {self.seconds:.0f} s, peak {self.peak / 1e6:.0f} MB: {said}"


class Campaign:
    """A run of cases against one target."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._pid = target.pid
        self.tally = Tally()
        self._association: Caller | None = None
        self._syntax = ""
        self._proper = instance(EXPLICIT, PROPER)

    def run(self, first: int, n: int, *, every: int = 250, say: Callable[[str], None] = lambda text: None) -> Tally:
        """Run ``n`` cases from number ``first`` in rounds. Raises Broken with the seed and the cases to replay."""
        begin = time.monotonic()
        self._target.forget_peak()
        for start in range(first, first + n, every):
            numbers = range(start, min(start + every, first + n))
            try:
                for number in numbers:
                    self._run_one(number)
                self._look_after()
            except Broken as broken:
                raise Broken(
                    f"{broken}\nreplay: python -m tests.hostile --seed {self._seed} "
                    f"--first {numbers.start} --cases {len(numbers)} "
                    f"{'' if self._target.config.receive.fast_path else '--stock'}"
                ) from None
            self._target.clear()
            self.tally.seconds = time.monotonic() - begin
            say(f"{self.tally.n} of {n} cases, {self.tally.n / self.tally.seconds:.0f} a second")
        return self.tally

    def _run_one(self, number: int) -> None:
        case = make_case(self._seed, number)
        try:
            answer = self._converse(case) if isinstance(case, Conversation) else self._store(case, number)
        except (OSError, AssertionError) as error:
            raise Broken(f"case {number}: {type(error).__name__}: {error}") from error
        self.tally.n += 1
        self.tally.answers[answer] += 1

    # ----------------------------------------------------------------- conversations

    def _converse(self, case: Conversation) -> str:
        """Say it all; read what comes in between; the last PDU that came."""
        received = b""
        last = "nothing"
        with socket.create_connection(("127.0.0.1", self._target.port), timeout=10) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(ConnectionError):
                for piece in case.pieces:
                    sock.sendall(piece)
                    received += _read_for(sock, 0.004)
                if case.end == "half":
                    with contextlib.suppress(OSError):  # when the other side was faster
                        sock.shutdown(socket.SHUT_WR)
                    received += _read_for(sock, 0.05)
                elif case.end == "listen":
                    received += _read_for(sock, 0.05)
                elif case.end == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for pdu in _pdus(received):
            last = _name(pdu)
        return last

    # ----------------------------------------------------------------- objects

    def _store(self, case: Object, number: int) -> str:
        """Store it and compare what was answered with what was kept."""
        before = len(self._target.quarantined())
        status = self._store_once(case)
        if status is None:  # on a busy machine it may have been silent for too long, between two cases
            self._hang_up()
            status = self._store_once(case)
        if status is None:
            self._hang_up()
            raise Broken(f"case {number}: a proper C-STORE with a broken object ends the association")
        assert status in (SUCCESS, 0xA900, 0xC000), f"status 0x{status:04X}"
        assert status == SUCCESS or not case.untouched, f"a proper object refused with 0x{status:04X}"
        if status == SUCCESS:
            kept = self._target.stored(case.sop_instance)
            assert kept, "Success, and nothing is stored"
            if case.untouched:
                assert kept == [case.dataset], "what is stored differs from what was sent"
        elif before < 1000:
            reasons = [
                reason for name, reason in self._target.quarantined().items() if name.startswith(case.sop_instance)
            ]
            assert any(reasons), f"0x{status:04X}, and no quarantined file with its reason"
        return f"0x{status:04X}"

    def _store_once(self, case: Object) -> int | None:
        """Over the association at hand, or one for its syntax."""
        if self._association is None or self._syntax != case.syntax:
            self._hang_up()
            caller = Caller(self._target.port)
            answer = caller.associate(contexts=((MR, case.syntax),))
            assert answer[0] == ASSOCIATE_AC, answer[:10]
            self._association, self._syntax = caller, case.syntax
        return self._association.store(case.dataset, case.sop_instance)

    def _hang_up(self) -> None:
        if self._association is not None:
            self._association.socket.close()
            self._association = None

    # ----------------------------------------------------------------- after a round

    def _look_after(self) -> None:
        self._hang_up()
        target = self._target
        if not target.alive or target.pid != self._pid:
            raise Broken("the receiving process is gone")
        try:
            with associated(target.port) as caller:
                status = caller.store(self._proper, uid(PROPER))
                assert status == SUCCESS, f"a proper sender gets status {status}"
                caller.release()
            target.settle()
        except (OSError, AssertionError) as error:
            raise Broken(f"after the round: {type(error).__name__}: {error}") from error
        if faults := target.faults():
            raise Broken("the log holds faults:\n" + "\n".join(faults[:10]))
        if strays := target.strays():
            raise Broken(f"files where none belong: {strays[:5]}")
        self.tally.peak = max(self.tally.peak, target.peak_memory)
        if target.peak_memory > 1.5 * target.idle_memory + PEAK_BYTES:
            raise Broken(f"{target.peak_memory / 1e6:.0f} MB, {target.idle_memory / 1e6:.0f} MB when idle")


def _read_for(sock: socket.socket, seconds: float) -> bytes:
    """What comes within some time; not a byte is waited for longer."""
    received = b""
    while select.select([sock], [], [], seconds)[0]:
        data = sock.recv(65536)
        if not data:
            break
        received += data
    return received


def _pdus(received: bytes) -> list[bytes]:
    """The PDUs received. AssertionError when the node itself breaks the framing; the last one may be cut off."""
    pdus = []
    while len(received) >= 6:
        assert received[0] in ANSWERS, f"the node sends a PDU of type {received[0]}"
        length = int.from_bytes(received[2:6], "big")
        assert length < 200_000, f"the node sends a PDU of {length} bytes"
        pdus.append(received[: 6 + length])
        received = received[6 + length :]
    return pdus


def _name(pdu: bytes) -> str:
    return {2: "accept", 3: "reject", 4: "response", 5: "release", 6: "released", 7: "abort"}[pdu[0]]
