"""How much an association request may hold."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest

from stenosis_node.wire.framing import MAX_CONTROL_PDU_BYTES, RefusedPdu, check_request
from tests.unit.receive.raw_scu import associate_rq

MR = "1.2.840.10008.5.1.4.1.1.4"
LONG_SYNTAXES = [f"1.2.840.10008.1.2.4.{n}" for n in range(100, 160)]


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def request_of(contexts: Iterable[tuple[str, Iterable[str]]], *, end: bytes = b"") -> bytes:
    """An A-ASSOCIATE-RQ with these SOP classes and transfer syntaxes, and any number of them."""
    proper = associate_rq(contexts=())
    body = b"".join(
        item(
            0x20,
            bytes([(2 * number + 1) & 0xFF, 0, 0, 0])
            + item(0x30, sop_class.encode())
            + b"".join(item(0x40, syntax.encode()) for syntax in syntaxes),
        )
        for number, (sop_class, syntaxes) in enumerate(contexts)
    )
    pdu = proper[6:] + body + end
    return b"\1\0" + struct.pack(">L", len(pdu)) + pdu


def test_the_longest_request_that_a_caller_can_mean() -> None:
    request = request_of([(MR, LONG_SYNTAXES)] * 128)
    assert len(request) < MAX_CONTROL_PDU_BYTES
    check_request(request)


@pytest.mark.parametrize(
    "request_",
    [
        request_of([(MR, ["1.2"])] * 129),
        request_of([(MR, ["1.2"] * 9000)]),
        request_of([(MR, ["1.2"] * 5000)] * 2, end=b"\x20\0\xff\xff"),
        request_of([(MR, ["1.2"])], end=item(0x50, item(0x51, b"") * 9000)),
        request_of([(MR, ["1.2"])], end=item(0x99, b"") * 9000),
    ],
    ids=["contexts", "syntaxes", "syntaxes, then nonsense", "user information", "unknown items"],
)
def test_more_than_that(request_: bytes) -> None:
    with pytest.raises(RefusedPdu, match="more than 128 contexts"):
        check_request(request_)


@pytest.mark.parametrize("cut", [7, 60, 74, 76, 80, 90, 100, 140])
def test_what_is_malformed_is_left_to_the_decoder(cut: int) -> None:
    check_request(associate_rq()[:cut])
    check_request(associate_rq()[:cut] + b"\xff" * 300)
