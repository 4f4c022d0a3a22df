"""The cases of the fuzz: what a caller sends, made from a seed and a number alone, so that each can be replayed.

Two kinds, one after the other: conversations (PDUs, command sets, their order and their ends are mutated) and objects
(a mutated data set in a proper C-STORE).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.hostile.datasets import SYNTAXES, deflate, element, encode, instance, nested, slice_header, uid
from tests.hostile.peer import store_pdus
from tests.unit.receive.raw_scu import A_ABORT, A_RELEASE_RQ, EXPLICIT, MR, associate_rq, c_store_rq, p_data

DEFLATED = "1.2.840.10008.1.2.1.99"
ECHO = "1.2.840.10008.1.1"
UIDS = ("", " ", "..", "../../../../tmp/x", "/etc/passwd", "1/2", "1.2\0.3", "1" * 65, "1." * 32, "1 .2", "1.2.é", "-1",
        "1.2.3\\1.2.4", "%2e%2e", "1.2.840.10008.1.2.1.99", ".1", "0", "1.2.\n3", "CON", "~", "1.dcm")  # fmt: skip
NUMBERS = (
    0,
    1,
    2,
    3,
    5,
    6,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
)

Mutation = Callable[[random.Random, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is sent after connecting."""

    pieces: tuple[bytes, ...]
    """Each in one call to send; a pause for the answer in between."""
    end: str
    """How the caller goes: ``close``, ``reset``, ``half`` (sends no more, but reads on), ``listen`` (says nothing)."""


@dataclass(frozen=True, slots=True)
class Object:
    """A data set in a C-STORE whose command is proper."""

    syntax: str
    dataset: bytes
    sop_instance: str
    fragment: int = 65_000
    untouched: bool = False
    """Whether it is a proper data set: Success is the only right answer."""
    pieces: tuple[bytes, ...] = field(default=(), compare=False)


def make_case(seed: int, number: int) -> Conversation | Object:
    """The case with this number."""
    rng = random.Random(f"{seed}/{number}")
    return _object(rng, number) if number % 2 else _conversation(rng, number)


# --------------------------------------------------------------------------- bytes


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if changed:
            changed[rng.randrange(min(len(changed), rng.choice((16, 300, len(changed)))))] = rng.randrange(256)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _drop(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.choice((1, 2, 4, 8, 40)) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 8, 80, 400))]
    return data[:start] + piece * rng.choice((2, 3, 50)) + data[start:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + rng.randbytes(rng.choice((1, 2, 7, 64))) + data[start:]


def _number(rng: random.Random, data: bytes) -> bytes:
    """A number somewhere, in one of the widths and orders DICOM has."""
    form = rng.choice((">L", "<L", ">H", "<H", "B"))
    width = struct.calcsize(form)
    if len(data) < width:
        return data
    at = rng.randrange(min(len(data) - width + 1, rng.choice((12, 200, 1 << 20))))
    value = rng.choice(NUMBERS) & (256**width - 1)
    return data[:at] + struct.pack(form, value) + data[at + width :]


def _swap(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:] + data[a:b]


BYTES: tuple[Mutation, ...] = (_flip, _flip, _cut, _drop, _repeat, _insert, _number, _number, _number, _swap)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to three mutations of the bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(BYTES)(rng, data)
    return data


# --------------------------------------------------------------------------- conversations


def _conversation(rng: random.Random, number: int) -> Conversation:
    pdus = [_request(rng), *_store(rng, number)]
    pdus += rng.choice(
        ([A_RELEASE_RQ], [A_ABORT], [], [A_RELEASE_RQ, A_RELEASE_RQ], [A_RELEASE_RQ, *_store(rng, number)])
    )
    match rng.randrange(6):
        case 0:  # one PDU broken inside
            at = rng.randrange(len(pdus))
            pdus[at] = mutate(rng, pdus[at])
        case 1:  # the content broken, its length right
            at = rng.randrange(len(pdus))
            body = mutate(rng, pdus[at][6:])
            pdus[at] = pdus[at][:2] + struct.pack(">L", len(body)) + body
        case 2:  # in another order, some twice, some missing
            pdus = [rng.choice(pdus) for _ in range(rng.randrange(1, 8))]
            pdus = pdus if rng.randrange(3) == 0 else [_request(rng), *pdus]
        case 3:  # everything that can be said, at a wrong time
            pdus.insert(rng.randrange(len(pdus) + 1), _stray(rng, number))
        case 4:  # the stream broken anywhere
            return Conversation(_pieces(rng, mutate(rng, b"".join(pdus))), _end(rng))
        case _:  # stops anywhere
            return Conversation(_pieces(rng, _cut(rng, b"".join(pdus))), _end(rng))
    if rng.randrange(2):
        return Conversation(tuple(pdus), _end(rng))
    return Conversation(_pieces(rng, b"".join(pdus)), _end(rng))


def _request(rng: random.Random) -> bytes:
    contexts = rng.choice(
        (
            [(MR, EXPLICIT)],
            [(MR, EXPLICIT), (ECHO, EXPLICIT)],
            [(MR, syntax) for syntax in SYNTAXES],
            [("1.2.840.10008.1.20.1", EXPLICIT), (MR, EXPLICIT)],
            [("1.2.840.10008.5.1.4.1.2.2.1", EXPLICIT)],
        )
    )
    return associate_rq(contexts=contexts)


def _store(rng: random.Random, number: int) -> list[bytes]:
    """PDUs of a C-STORE (or another request) whose command set may be broken."""
    command = c_store_rq(MR, uid(number)) if rng.randrange(3) else _command(rng, number)
    if rng.randrange(4) == 0:
        command = mutate(rng, command)
    dataset = instance(EXPLICIT, number % 50)
    context = rng.choice((1, 1, 1, 3, 0, 2, 255))
    pdvs = [(3, command), (0, dataset[:1000]), (2, dataset[1000:])]
    match rng.randrange(8):
        case 0:
            pdvs = [(1, command[:20]), (3, command[20:]), (2, dataset)]
        case 1:
            pdvs = [(rng.randrange(256), content) for _, content in pdvs]
        case 2:
            rng.shuffle(pdvs)
        case 3:
            pdvs = pdvs[: rng.randrange(3)]
        case 4:  # all in one PDU
            body = b"".join(struct.pack(">LBB", len(c) + 2, context, k) + c for k, c in pdvs)
            return [struct.pack(">BBL", 4, 0, len(body)) + body]
        case _:
            pass
    return [p_data(context, control, content) for control, content in pdvs]


def _command(rng: random.Random, number: int) -> bytes:
    """A command set with elements changed, missing, doubled, of another kind of request."""

    def one(tag: int, value: bytes) -> bytes:
        return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value

    def short() -> bytes:
        return struct.pack("<H", rng.choice(NUMBERS) & 0xFFFF)

    parts = {
        0x0002: rng.choice((MR, ECHO, *UIDS)).encode("utf-8", "replace"),
        0x0100: rng.choice(
            (b"\x01\0", b"\x30\0", b"\x20\0", b"\x21\0", b"\x00\x01", b"\x40\x01", b"\xff\x0f", short())
        ),
        0x0110: short(),
        0x0700: short(),
        0x0800: rng.choice((b"\x01\x01", b"\x01\0", short())),
        0x1000: rng.choice((uid(number), *UIDS)).encode("utf-8", "replace"),
    }
    for tag in rng.sample(sorted(parts), rng.choice((0, 0, 1, 2))):
        del parts[tag]
    extra = {0x1030: b"MOVER", 0x1031: short(), 0x0003: b"1.2", 0x1002: short(), 0x0900: short(), 0x0902: b"x" * 70}
    for tag in rng.sample(sorted(extra), rng.choice((0, 0, 0, 1, 3))):
        parts[tag] = extra[tag]
    body = b"".join(one(tag, value) for tag, value in sorted(parts.items()))
    length = len(body) if rng.randrange(5) else rng.choice(NUMBERS)
    return one(0x0000, struct.pack("<L", length)) + body


def _stray(rng: random.Random, number: int) -> bytes:
    return rng.choice(
        (
            A_ABORT,
            A_RELEASE_RQ,
            b"\x06\0\0\0\0\x04\0\0\0\0",
            b"\x03\0\0\0\0\x04\0\x01\x01\x01",
            b"\x02\0" + _request(rng)[2:],
            _request(rng),
            bytes([rng.randrange(256), 0]) + struct.pack(">L", rng.choice(NUMBERS)),
            b"\x04\0\0\0\0\0",
            struct.pack(">BBLL", 4, 0, 4, 0),
            struct.pack(">BBLLBB", 4, 0, 6, rng.choice(NUMBERS), 1, 2),
            struct.pack(">BBLL", 4, 0, rng.choice(NUMBERS), rng.choice(NUMBERS)),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(508),
            rng.randbytes(rng.choice((1, 5, 6, 7, 60, 3000))),
        )
    )


def _pieces(rng: random.Random, stream: bytes) -> tuple[bytes, ...]:
    """The stream cut at random places."""
    cuts = sorted(rng.randrange(len(stream) + 1) for _ in range(rng.choice((0, 1, 3))))
    ends = [*cuts, len(stream)]
    return tuple(stream[a:b] for a, b in zip([0, *cuts], ends, strict=True))


def _end(rng: random.Random) -> str:
    return rng.choice(("close", "close", "reset", "half", "listen"))


# --------------------------------------------------------------------------- objects


def _object(rng: random.Random, number: int) -> Object:
    syntax = rng.choice(SYNTAXES)
    sop = uid(number)
    kind = rng.randrange(10)
    dataset = instance(syntax, number) if kind == 0 else instance(syntax, number % 50)
    if kind == 0:
        return Object(syntax, dataset, sop, fragment=rng.choice((2, 100, 1000, 65_000)), untouched=True)
    own = uid(number % 50)
    if kind <= 4:
        return Object(syntax, mutate(rng, dataset), own)
    if kind == 5:  # broken behind the head, where the pixels are
        at = len(dataset) - rng.randrange(1, 900)
        return Object(syntax, dataset[: max(at, 1)] + mutate(rng, dataset[max(at, 1) :] or b"\0"), own)
    changed = slice_header(number % 50)
    if kind == 6:
        keyword = rng.choice(("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"))
        value = rng.choice(UIDS).encode("utf-8")
        changed[keyword]._value = "\0" * len(value)  # a place of the right length, filled below
        encoded = encode(changed, EXPLICIT)
        tag = changed[keyword].tag
        head = struct.pack("<HH2s", tag.group, tag.element, b"UI")
        at = encoded.find(head)
        end = at + 8 + int.from_bytes(encoded[at + 6 : at + 8], "little")
        return Object(EXPLICIT, encoded[:at] + element(tag, b"UI", value) + encoded[end:], own)
    encoded = encode(changed, EXPLICIT)
    if kind == 7:
        at = encoded.find(b"\x08\x00\x60\x00")
        front = nested(rng.choice((1, 10, 300, 3000)), undefined=bool(rng.randrange(2)))
        return Object(EXPLICIT, encoded[:at] + (front if rng.randrange(3) else mutate(rng, front)) + encoded[at:], own)
    if kind == 8:
        stray = rng.choice(
            (
                element(0x0002_0010, b"UI", b"1.2.840.10008.1.2.2\0"),
                element(0x0000_0002, b"UI", b"1.2.3\0"),
                element(0x0008_0001, b"UL", bytes(4)),
                element(rng.getrandbits(32), rng.choice((b"UN", b"OB", b"LO", b"SQ")), rng.randbytes(30)),
            )
        )
        at = rng.choice((0, len(encoded)))
        return Object(EXPLICIT, encoded[:at] + stray + encoded[at:], own)
    return Object(DEFLATED, mutate(rng, deflate(mutate(rng, encoded), rng.randrange(10))), own)


def pdus_of(case: Object, number: int) -> bytes:
    """The PDUs of an object's C-STORE."""
    return store_pdus(case.dataset, case.sop_instance, message=number & 0xFFFF, fragment=case.fragment)
