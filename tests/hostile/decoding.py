"""Fuzz of what reads received files: headers and pixels, in a process of its own."""

from __future__ import annotations

import multiprocessing
import random
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from stenosis_node.series.headers import scan
from stenosis_node.series.reading import decode
from tests.hostile.cases import mutate
from tests.hostile.datasets import SYNTAXES, instance, part10, uid

LIMIT_S = 90.0
"""Longest time one small file may take; twenty seconds after a decoder hangs it is ended."""
MEMORY_BYTES = 6 << 30


def make_file(seed: int, number: int) -> bytes:
    """A Part 10 file of a proper slice, mutated anywhere, or only in its pixel data."""
    rng = random.Random(f"decode/{seed}/{number}")
    syntax = rng.choice(SYNTAXES)
    dataset = instance(syntax, number % 20)
    start = 0 if rng.randrange(3) == 0 else max(0, len(dataset) - rng.randrange(1, 1100))
    changed = dataset[:start] + mutate(rng, dataset[start:])
    return part10(changed, syntax, uid(number % 20))


def read_one(path: Path) -> str:
    """What became of the file. Raises what must not be raised."""
    found = scan([path])
    if found.unreadable:
        return "unreadable"
    pieces = [piece for series in found.series for piece in series.slices]
    outcomes = [outcome for _, outcome in decode(pieces)]
    if not outcomes:
        return "no image"
    return "pixels" if all(pixels is not None for pixels, _ in outcomes) else "undecodable"


def _work(numbers: Connection, seed: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hostile.dcm"
        while (number := numbers.recv()) is not None:
            path.write_bytes(make_file(seed, number))
            begin = time.monotonic()
            try:
                answer = read_one(path)
            except Exception as error:
                answer = f"fault {type(error).__name__}: {error}"
            numbers.send((answer, time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def fuzz_decoding(seed: int, first: int, n: int) -> tuple[str, bool]:
    """Read ``n`` files; a sentence, and whether nothing broke. A process that dies is replaced and counted."""
    context = multiprocessing.get_context("spawn")
    counts: dict[str, int] = {}
    faults: list[str] = []
    slowest = 0.0
    peak = 0

    def start() -> tuple[multiprocessing.process.BaseProcess, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, seed), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    process, pipe = start()
    begin = time.monotonic()
    for number in range(first, first + n):
        try:
            pipe.send(number)
            if not pipe.poll(LIMIT_S + 30):
                process.kill()
            answer, seconds, rss = pipe.recv()
        except (EOFError, OSError):
            process.kill()
            process.join()
            faults.append(f"case {number}: the process ended with {process.exitcode}, or hung")
            pipe.close()
            process, pipe = start()
            continue
        slowest, peak = max(slowest, seconds), max(peak, rss)
        if answer.startswith("fault") or seconds > LIMIT_S:
            faults.append(f"case {number}: {answer} after {seconds:.1f} s")
            continue
        counts[answer] = counts.get(answer, 0) + 1
    pipe.send(None)
    process.join(10)
    pipe.close()
    said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    text = (
        f"{n} files of seed {seed} in {time.monotonic() - begin:.0f} s: {said}; "
        f"slowest {slowest:.2f} s, peak {peak / 1024:.0f} MB, {len(faults)} faults"
    )
    return "\n".join([text, *faults[:20]]), not faults
