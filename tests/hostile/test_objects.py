"""A broken object is quarantined alone, with its reason; what comes before and after it is stored."""

from __future__ import annotations

import struct
import zlib

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from tests.hostile.cases import UIDS
from tests.hostile.datasets import (
    NATIVE,
    deflate,
    element,
    encode,
    instance,
    nested,
    slice_header,
    uid,
    with_front,
)
from tests.hostile.peer import SUCCESS, Caller, associated, status_of
from tests.hostile.target import MB, Target
from tests.unit.receive.raw_scu import EXPLICIT, MR, c_store_rq, p_data

CANNOT_UNDERSTAND, DOES_NOT_MATCH, OUT_OF_RESOURCES = 0xC000, 0xA900, 0xA700


def without(keyword: str) -> bytes:
    ds = slice_header(1)
    del ds[keyword]
    return encode(ds, EXPLICIT)


def replaced(tag: int, value: bytes) -> bytes:
    """A UID of a proper data set with other bytes."""
    whole = instance(EXPLICIT, 1)
    at = whole.find(struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, b"UI"))
    end = at + 8 + int.from_bytes(whole[at + 6 : at + 8], "little")
    return whole[:at] + element(tag, b"UI", value) + whole[end:]


GROUP_2 = element(0x0002_0010, b"UI", b"1.2.840.10008.1.2.2\0")
UNREADABLE = frozenset({CANNOT_UNDERSTAND})
MISFIT = frozenset({DOES_NOT_MATCH})
BROKEN: dict[str, tuple[bytes, frozenset[int], str]] = {
    "one byte": (b"\0", UNREADABLE, "breaks off"),
    "noise": (bytes(range(256)) * 8, UNREADABLE | MISFIT, ""),
    "cut inside an element": (instance(EXPLICIT, 1)[:300], UNREADABLE, "breaks off"),
    "a length beyond the end": (b"\x08\0\x05\0OB\0\0\xfe\xff\xff\xff", UNREADABLE, "breaks off"),
    "another syntax": (instance(ExplicitVRBigEndian, 1), UNREADABLE | MISFIT, ""),
    "no study": (without("StudyInstanceUID"), MISFIT, "Study Instance UID"),
    "no series": (without("SeriesInstanceUID"), MISFIT, "Series Instance UID"),
    "no instance": (without("SOPInstanceUID"), MISFIT, "SOP Instance UID"),
    "no class": (without("SOPClassUID"), MISFIT, "SOP Class UID"),
    "another instance": (instance(EXPLICIT, 7), MISFIT, "differs from the command"),
    "another class": (replaced(0x0008_0016, b"1.2.840.10008.5.1.4.1.1.2\0"), MISFIT, "differs from the command"),
    "group 0002": (GROUP_2 + instance(EXPLICIT, 1), UNREADABLE, "group 0002"),
    "a whole file": (bytes(128) + b"DICM" + instance(EXPLICIT, 1), UNREADABLE, "group 0000"),
    "an item without sequence": (struct.pack("<HHL", 0xFFFE, 0xE000, 4) + bytes(4), UNREADABLE, "item"),
}


def test_a_broken_object_between_proper_ones(target: Target) -> None:
    for n, (name, (dataset, statuses, reason)) in enumerate(BROKEN.items()):
        with associated(target.port) as caller:
            assert caller.store(instance(EXPLICIT, 0), uid(0)) == SUCCESS, name
            assert caller.store(dataset, uid(1)) in statuses, name
            assert caller.store(instance(EXPLICIT, 2), uid(2)) == SUCCESS, name
            caller.release()
        assert [len(target.stored(uid(n))) for n in range(3)] == [1, 0, 1], name
        ((name_kept, said),) = target.quarantined().items()
        assert name_kept.startswith(uid(1)), name
        assert reason in said, name
        kept = (target.spool.root / "quarantine" / name_kept).read_bytes()
        assert kept.endswith(dataset), name
        target.clear()
    assert n > 10


@pytest.mark.parametrize("where", ["study", "series", "instance"])
def test_uids_that_are_paths(target: Target, where: str) -> None:
    """Nothing is written where they point; what they name is refused, but for a laxer UID that harms no path."""
    tag = {"study": 0x0020_000D, "series": 0x0020_000E, "instance": 0x0008_0018}[where]
    with associated(target.port) as caller:
        for bad in UIDS:
            value = bad.encode("utf-8")
            dataset = replaced(tag, value + b"\0" * (len(value) % 2))
            sop = bad if where == "instance" else uid(1)
            caller.message_id += 1
            command = c_store_rq(MR, "#" * len(value) if sop == bad else sop).replace(b"#" * len(value) or b"\r", value)
            caller.send(p_data(1, 3, command) + p_data(1, 2, dataset))
            answer = caller.read_pdu()
            if answer[:1] == b"\x07" or not answer:  # a UID the command set cannot hold ends the association
                caller.socket.close()
                fresh = Caller(target.port)
                assert fresh.associate()[0] == 2
                caller.socket = fresh.socket
                continue
            status = status_of(answer)
            harmless = (
                bad.strip(" \0")
                and all(c in "0123456789." for c in bad.strip(" \0"))
                and len(bad) <= 64
                and bad[0] != "."
            )
            assert status == SUCCESS if harmless else status != SUCCESS, (bad, status)
    assert target.strays() == []


def test_ten_thousand_nested_sequences(target: Target) -> None:
    for undefined in (True, False):
        dataset = with_front(nested(10_000, undefined=undefined), 1)
        with associated(target.port) as caller:
            assert caller.store(dataset, uid(1)) == SUCCESS  # a proper data set, if an odd one
        assert target.stored(uid(1)) == [dataset]
        target.clear()


def test_sequences_that_never_end(target: Target) -> None:
    half = len(nested(10_000, undefined=True)) * 20 // 36
    with associated(target.port) as caller:
        assert caller.store(nested(10_000, undefined=True)[:half], uid(1)) == CANNOT_UNDERSTAND
        assert caller.store(nested(200_000, undefined=True), uid(1)) == CANNOT_UNDERSTAND


def test_every_native_syntax_is_stored_as_it_came(target: Target) -> None:
    for syntax in NATIVE:
        odd = instance(syntax, 1) + (b"\0" if syntax == DeflatedExplicitVRLittleEndian else b"")
        with associated(target.port, (MR, syntax)) as caller:
            assert caller.store(instance(syntax, 0), uid(0)) == SUCCESS
            assert caller.store(odd, uid(1)) == SUCCESS
            assert caller.store(instance(syntax, 2)[:40], uid(2)) in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)
        assert target.stored(uid(0)) == [instance(syntax, 0)]
        assert target.stored(uid(1)) == [odd]
        target.clear()


def test_a_deflated_data_set_that_inflates_to_gigabytes(target: Target) -> None:
    """Behind the UIDs it costs nothing to store; in front of them it is refused, and costs eight megabytes."""
    bytes_behind = struct.pack("<HL", 0, 1 << 31)
    in_front = element(0x0009_0010, b"LO", b"X") + struct.pack("<HH2s", 0x0009, 0x1001, b"OB") + bytes_behind
    behind = instance(EXPLICIT, 1) + struct.pack("<HH2s", 0x7FE1, 0x0010, b"OB") + bytes_behind
    for head, status in ((in_front, CANNOT_UNDERSTAND), (behind, SUCCESS)):
        dataset = deflated_bomb(head)
        assert len(dataset) < 3 * MB
        with associated(target.port, (MR, DeflatedExplicitVRLittleEndian)) as caller:
            assert caller.store(dataset, uid(1)) == status
    assert target.peak_memory < 1.5 * target.idle_memory + 40 * MB


def deflated_bomb(head: bytes) -> bytes:
    """The bytes, and 2 GiB of zeros behind them. What follows a full flush can be repeated."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    begin = deflater.compress(head) + deflater.flush(zlib.Z_FULL_FLUSH)
    zeros = deflater.compress(bytes(1 << 24)) + deflater.flush(zlib.Z_FULL_FLUSH)
    return begin + zeros * 128 + deflater.flush()


def test_deflated_noise(target: Target) -> None:
    with associated(target.port, (MR, DeflatedExplicitVRLittleEndian)) as caller:
        assert caller.store(b"\xff" * 500, uid(1)) == CANNOT_UNDERSTAND
        assert caller.store(deflate(b""), uid(1)) in (CANNOT_UNDERSTAND, DOES_NOT_MATCH)
        assert caller.store(instance(EXPLICIT, 1), uid(1)) == CANNOT_UNDERSTAND
