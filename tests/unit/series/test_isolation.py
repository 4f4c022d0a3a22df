"""What a compressed frame can do to its decoder costs that frame, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import JPEGLSLossless, RLELossless

from stenosis_node.series import isolation
from stenosis_node.series.isolation import DecoderProcess, Undecodable

SIDE = 16
PIXELS = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE)
OPTIONS: dict[str, Any] = {
    "rows": SIDE,
    "columns": SIDE,
    "bits_allocated": 16,
    "bits_stored": 12,
    "pixel_representation": 0,
    "samples_per_pixel": 1,
    "photometric_interpretation": "MONOCHROME2",
    "number_of_frames": 1,
    "pixel_keyword": "PixelData",
}
PLUGINS = {RLELossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}


def forks(decoders: DecoderProcess) -> list[psutil.Process]:
    assert decoders._process is not None
    return psutil.Process(decoders._process.pid).children()


def frame(syntax: str) -> bytes:
    return encapsulate([get_encoder(syntax).encode(PIXELS, **OPTIONS)], has_bot=False)


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderProcess]:
    with DecoderProcess() as process:
        yield process


def decode(decoders: DecoderProcess, encoded: bytes, syntax: str = RLELossless, **changes: Any) -> Any:
    return decoders.decode(encoded, syntax=syntax, plugin=PLUGINS[syntax], options={**OPTIONS, **changes})


@pytest.mark.parametrize("syntax", PLUGINS)
def test_a_frame(decoders: DecoderProcess, syntax: str) -> None:
    np.testing.assert_array_equal(decode(decoders, frame(syntax), syntax), PIXELS)


def test_a_frame_the_decoder_refuses_says_why(decoders: DecoderProcess) -> None:
    with pytest.raises(Undecodable, match="its pixel data cannot be decoded"):
        decode(decoders, encapsulate([bytes(80)], has_bot=False))
    np.testing.assert_array_equal(decode(decoders, frame(RLELossless)), PIXELS)


def test_a_frame_that_makes_the_decoder_panic_is_lost_alone(decoders: DecoderProcess) -> None:
    """Two segments of zeros that are longer than the image: the plugin for RLE writes beyond its end, and panics."""
    decode(decoders, frame(RLELossless))
    before = decoders._process
    segment = b"\x81\0" * (SIDE * SIDE // 128 + 3)
    header = np.array([2, 64, 64 + len(segment), *[0] * 13], dtype="<u4").tobytes()
    with pytest.raises(Undecodable, match=r"its pixel data (ends the decoder|cannot be decoded)"):
        decode(decoders, encapsulate([header + segment * 2], has_bot=False))
    assert decoders._process is before
    np.testing.assert_array_equal(decode(decoders, frame(RLELossless)), PIXELS)


def test_a_decoder_that_was_killed_is_started_again(decoders: DecoderProcess) -> None:
    decode(decoders, frame(RLELossless))
    assert decoders._process is not None
    os.kill(decoders._process.pid, signal.SIGKILL)
    np.testing.assert_array_equal(decode(decoders, frame(RLELossless)), PIXELS)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_fork_that_ended_outside_of_a_decode_takes_its_process_along(
    decoders: DecoderProcess, number: signal.Signals
) -> None:
    decode(decoders, frame(RLELossless))
    before = decoders._process
    (fork,) = forks(decoders)
    fork.send_signal(number)
    psutil.wait_procs([fork], timeout=10)
    for shift in range(3):
        encoded = encapsulate([get_encoder(RLELossless).encode(PIXELS + shift, **OPTIONS)], has_bot=False)
        np.testing.assert_array_equal(decode(decoders, encoded), PIXELS + shift)
    assert decoders._process is not before  # nobody knows where in the pipes it was


def test_nobody_has_to_reap_what_is_left() -> None:
    """Process 1 of a container may be one that reaps its own children alone; a subreaper stands for it here."""
    program = (
        "import ctypes; from tests.unit.series.test_isolation import *; ctypes.CDLL(None).prctl(36, 1)\n"
        "for hangs in (False, True):\n"
        "    with DecoderProcess() as d:\n"
        "        decode(d, frame(RLELossless))\n"
        "        if hangs: forks(d)[0].suspend()\n"
        "print(len(psutil.Process().children(recursive=True)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.strip() == "0", done.stdout + done.stderr


def test_a_decoder_that_hangs_ends_with_the_process_that_asked() -> None:
    program = (
        "import sys, time; from tests.unit.series.test_isolation import *; d = DecoderProcess().__enter__();"
        "decode(d, frame(RLELossless)); print(d._process.pid, forks(d)[0].pid, flush=True); time.sleep(60)"
    )
    asking = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    with asking.stdout:
        decoding = [psutil.Process(int(pid)) for pid in asking.stdout.readline().split()]
    decoding[1].suspend()
    asking.kill()
    asking.wait()
    left = psutil.wait_procs(decoding, timeout=10)[1]
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


def test_a_frame_that_takes_too_long_is_lost_and_too_many_end_the_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "MAX_TIMEOUTS", 1)
    with DecoderProcess(limit_s=0.0) as decoders:
        with pytest.raises(Undecodable, match="longer than 0 s"):
            decode(decoders, frame(RLELossless))
        with pytest.raises(Undecodable, match="too long for other slices"):
            decode(decoders, frame(RLELossless))


def test_nothing_is_left_of_the_process() -> None:
    with DecoderProcess() as decoders:
        decode(decoders, frame(RLELossless))
        process = decoders._process
    assert process is not None
    assert process.returncode is not None
