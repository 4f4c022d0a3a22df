"""Proper and improper callers on raw sockets."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

from tests.unit.receive.raw_scu import A_RELEASE_RQ, EXPLICIT, MR, RawScu, c_store_rq, p_data

ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RP, ABORT = 2, 3, 4, 6, 7
SUCCESS = 0x0000
STATUS_TAG = b"\x00\x00\x00\x09\x02\x00\x00\x00"


class Caller(RawScu):
    """An association that can store."""

    message_id = 0

    def store(
        self, dataset: bytes, sop_instance: str, *, sop_class: str = MR, context: int = 1, limit_s: float = 20
    ) -> int | None:
        """Status of a C-STORE; None when the other side ended the association instead."""
        self.message_id += 1
        self.socket.settimeout(limit_s)
        with contextlib.suppress(ConnectionError):
            self.send(store_pdus(dataset, sop_instance, sop_class=sop_class, context=context, message=self.message_id))
            return status_of(self.read_pdu())
        return None

    def release(self) -> None:
        """Take leave properly."""
        self.send(A_RELEASE_RQ)
        assert self.read_pdu()[:1] == bytes([RELEASE_RP])


def store_pdus(
    dataset: bytes,
    sop_instance: str,
    *,
    sop_class: str = MR,
    context: int = 1,
    message: int = 1,
    fragment: int = 65_000,
) -> bytes:
    """The PDUs of a proper C-STORE."""
    pieces = [dataset[i : i + fragment] for i in range(0, len(dataset), fragment)] or [b""]
    parts = [p_data(context, 3, c_store_rq(sop_class, sop_instance, message_id=message))]
    parts += [p_data(context, 0, piece) for piece in pieces[:-1]]
    return b"".join([*parts, p_data(context, 2, pieces[-1])])


def status_of(pdu: bytes) -> int | None:
    """Status of the C-STORE response in a P-DATA-TF; None when the PDU is something else."""
    at = pdu.find(STATUS_TAG)
    return int.from_bytes(pdu[at + 8 : at + 10], "little") if pdu[:1] == bytes([P_DATA_TF]) and at > 0 else None


@contextlib.contextmanager
def associated(port: int, *contexts: tuple[str, str]) -> Iterator[Caller]:
    """An accepted association, by default for MR in explicit VR little endian; the connection closes at the end."""
    with Caller(port) as caller:
        answer = caller.associate(contexts=contexts or ((MR, EXPLICIT),))
        assert answer[:1] == bytes([ASSOCIATE_AC]), answer[:10]
        yield caller


def latency_s(port: int, dataset: bytes, sop_instance: str, *, n: int = 15) -> float:
    """Median time of a C-STORE of the same instance over one association of its own."""
    taken = []
    with associated(port) as caller:
        for _ in range(n):
            begin = time.monotonic()
            assert caller.store(dataset, sop_instance) == SUCCESS
            taken.append(time.monotonic() - begin)
        caller.release()
    return statistics.median(taken)
