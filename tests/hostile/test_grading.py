"""Images that were received, and what hostile ones cost when a study is graded: themselves."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from stenosis_node.domain import GradedSlice, JobState, ReceivedInstance, StudyFindings, Unreadable
from stenosis_node.wire import part10
from stenosis_node.work.grade import GradeWorker
from tests.hostile.datasets import (
    encode,
    instance,
    nested,
    slice_header,
    with_front,
)
from tests.hostile.datasets import part10 as part10_file
from tests.unit.completeness import conclude_checks
from tests.unit.work.conftest import Bench

MR = "1.2.840.10008.5.1.4.1.1.4"
STUDY = "1.2.826.0.1.3680043.10.998.7"
SIDE = 128
GOOD = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
)


def claims(number: int, syntax: str, frame: bytes, side: int = SIDE) -> bytes:
    """A slice whose pixels are this compressed frame."""
    ds = slice_header(number, study=STUDY, n_rows=side)
    ds.PixelSpacing = [1.4, 1.4]
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    assert syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless, JPEGLosslessSV1)
    return encode(ds, ExplicitVRLittleEndian)


def bomb(number: int) -> bytes:
    """A deflated slice that goes on for gigabytes behind its pixels."""
    whole = zlib.decompress(instance(DeflatedExplicitVRLittleEndian, number, study=STUDY, n_rows=SIDE), -15)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = bytes(1 << 24)
    head = whole + struct.pack("<HH2sHL", 0x7FE1, 0x0010, b"OB", 0, 0xFFFF_FFF0)
    return b"".join([deflater.compress(head), *(deflater.compress(zeros) for _ in range(8)), deflater.flush()])


RLE_HEAD = struct.pack("<16L", 2, 64, 64 + 2 * 200, *[0] * 13)
J2K_HUGE = b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">2L", 60_000, 60_000) + bytes(24) + b"\0\1\x0b\1\1"
JPEG_LS_HUGE = (
    b"\xff\xd8\xff\xf7" + struct.pack(">HBHHB", 11, 12, 65_535, 65_535, 1) + b"\1\x11\0" + bytes(40) + b"\xff\xd9"
)
JPEG_ABORT = (
    b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB", 11, 12, SIDE, SIDE, 1) + b"\1\x11\0" + b"\xff\xda\0\x08\1\1\0\1\0\0"
    + bytes(40) + b"\xff\xd9"
)  # fmt: skip
ROWS = struct.pack("<HH2s", 0x0028, 0x0010, b"US")
OTHER_STUDY = struct.pack("<HH2sH", 0x0020, 0x000D, b"UI", 6) + b"1.2.3\0"
BROKEN: dict[str, tuple[str, bytes]] = {
    "deflated bomb": (DeflatedExplicitVRLittleEndian, bomb(10)),
    "deflated noise": (
        DeflatedExplicitVRLittleEndian,
        instance(DeflatedExplicitVRLittleEndian, 11, study=STUDY, n_rows=SIDE)[:900],
    ),
    "RLE that overflows": (RLELossless, claims(12, RLELossless, RLE_HEAD + b"\x81\0" * 400)),
    "RLE of 65535 x 65535": (RLELossless, claims(13, RLELossless, RLE_HEAD + bytes(800), side=65_535)),
    "JPEG 2000 of 60000 x 60000": (JPEG2000Lossless, claims(14, JPEG2000Lossless, J2K_HUGE)),
    "JPEG-LS of 65535 x 65535": (JPEGLSLossless, claims(15, JPEGLSLossless, JPEG_LS_HUGE)),
    "JPEG of nothing": (JPEGLosslessSV1, claims(16, JPEGLosslessSV1, JPEG_ABORT)),
    "no codestream": (JPEG2000Lossless, claims(17, JPEG2000Lossless, bytes(range(200)))),
    "another study further on": (
        ExplicitVRLittleEndian,
        instance(ExplicitVRLittleEndian, 18, study=STUDY, n_rows=SIDE).replace(ROWS, OTHER_STUDY + ROWS),
    ),
    "10,000 nested sequences": (
        ExplicitVRLittleEndian,
        with_front(nested(10_000, undefined=True), 19).replace(b"1.2.826.0.1.3680043.10.998.6", STUDY.encode()),
    ),
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def receive(bench: Bench, number: int, syntax: str, dataset: bytes) -> None:
    """As reception does."""
    sop = f"{STUDY}.1.{number}"
    put = bench.spool.put(STUDY, f"{STUDY}.1", sop, [part10_file(dataset, syntax, sop)])
    received = ReceivedInstance(
        study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.1",
        sop_instance_uid=sop,
        sop_class_uid=MR,
        transfer_syntax_uid=syntax,
        path=put.path,
        size_bytes=put.size_bytes,
        sha256=put.sha256,
        calling_ae_title="TEST",
        received_at=datetime.now(UTC),
    )
    bench.store.touch(received, quiet_period_s=0, ceiling_s=60)


def test_broken_images_cost_themselves_and_the_rest_is_graded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every syntax without compression and two with it are graded; each hostile slice is reported with a reason."""
    monkeypatch.setattr(part10, "MAX_INFLATED", 1 << 24)
    for number, syntax in enumerate(GOOD):
        receive(bench, number, syntax, instance(syntax, number, study=STUDY, n_rows=SIDE))
    for number, (syntax, dataset) in enumerate(BROKEN.values(), start=10):
        receive(bench, number, syntax, dataset)
    conclude_checks(bench.store)

    worker = GradeWorker(bench.config, bench.spool, bench.store, bench.pipeline, worker="grade@test")
    assert worker.step(threading.Event())

    job = bench.job(STUDY)
    assert job.job.state is JobState.DELIVERED, job.job.message
    (file,) = (bench.spool.root / "findings").glob("*.json")
    (series,) = StudyFindings.from_json(file.read_text()).series
    graded = {one.ref.sop_instance_uid for one in series.slices if isinstance(one, GradedSlice)}
    unreadable = {one.ref.sop_instance_uid: one.reason for one in series.slices if isinstance(one, Unreadable)}
    assert graded == {f"{STUDY}.1.{number}" for number in range(len(GOOD))}
    claims_too_much = 10 + list(BROKEN).index("RLE of 65535 x 65535")  # its header alone says that it is no such slice
    assert unreadable.keys() == {f"{STUDY}.1.{n}" for n in range(10, 10 + len(BROKEN)) if n != claims_too_much}
    assert all(unreadable.values())
    (decision,) = job.series
    assert "Left out: 1 slice (field-of-view)" in decision.sentence
