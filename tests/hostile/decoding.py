"""Fuzz of what reads received files: headers and pixels, in a process of its own."""

from __future__ import annotations

import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from stenosis_node.series.headers import scan
from stenosis_node.series.reading import decode
from tests.hostile.cases import mutate
from tests.hostile.datasets import SYNTAXES, instance, part10, uid

TOGETHER = 100
"""Files that are read like the slices of a study: they share a decoder process."""
LIMIT_S = 190.0
"""Longest time so many small files may take; five times twenty seconds are given to decoders that hang."""
MEMORY_BYTES = 6 << 30


def make_file(seed: int, number: int) -> bytes:
    """A Part 10 file of a proper slice, mutated anywhere, or only in its pixel data."""
    rng = random.Random(f"decode/{seed}/{number}")
    syntax = rng.choice(SYNTAXES)
    dataset = instance(syntax, number % TOGETHER)
    start = 0 if rng.randrange(3) == 0 else max(0, len(dataset) - rng.randrange(1, 1100))
    changed = dataset[:start] + mutate(rng, dataset[start:])
    return part10(changed, syntax, uid(number % TOGETHER))


def read_together(paths: list[Path]) -> Counter[str]:
    """What became of files that are read like a study. Raises what must not be raised."""
    found = scan(paths)
    pieces = [piece for series in found.series for piece in series.slices]
    counts = Counter(_outcome(pixels is not None, why) for _, (pixels, why) in decode(pieces))
    counts["unreadable"] = len(found.unreadable)
    counts["no image"] = max(0, len(paths) - counts.total())
    return counts


def _outcome(is_decoded: bool, why: str | None) -> str:
    if is_decoded:
        return "pixels"
    return "given up" if "for other slices" in (why or "") else "undecodable"


def _work(rounds: Connection, seed: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        while (numbers := rounds.recv()) is not None:
            paths = [Path(folder) / f"hostile-{place}.dcm" for place in range(len(numbers))]
            for path, number in zip(paths, numbers, strict=True):
                path.write_bytes(make_file(seed, number))
            begin = time.monotonic()
            fault = ""
            counts: Counter[str] = Counter()
            try:
                counts = read_together(paths)
            except Exception as error:
                fault = f"{type(error).__name__}: {error}"
            rounds.send((counts, fault, time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def fuzz_decoding(seed: int, first: int, n: int, *, every: int = 0) -> tuple[str, bool]:
    """Read ``n`` files, some at a time; a sentence, and whether nothing broke. A process that dies is replaced.

    every  print where it is after so many files; 0: never
    """
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
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
    for number in range(first, first + n, TOGETHER):
        numbers = range(number, min(number + TOGETHER, first + n))
        where = f"cases {numbers[0]} to {numbers[-1]}"
        try:
            pipe.send(numbers)
            if not pipe.poll(LIMIT_S + 30):
                process.kill()
            added, fault, seconds, rss = pipe.recv()
        except (EOFError, OSError):
            process.kill()
            process.join()
            faults.append(f"{where}: the process ended with {process.exitcode}, or hung")
            pipe.close()
            process, pipe = start()
            continue
        slowest, peak = max(slowest, seconds), max(peak, rss)
        counts += added
        if fault or seconds > LIMIT_S:
            faults.append(f"{where}: {fault or 'slow'} after {seconds:.1f} s")
        if every and (numbers[-1] + 1 - first) // every > (number - first) // every:
            print(f"{numbers[-1] + 1 - first} of {n} files, {time.monotonic() - begin:.0f} s", flush=True)
    pipe.send(None)
    process.join(10)
    pipe.close()
    said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    text = (
        f"{n} files of seed {seed} in {time.monotonic() - begin:.0f} s: {said}; {TOGETHER} files at a time, slowest "
        f"{slowest:.2f} s, peak {peak / 1024:.0f} MB, {len(faults)} faults"
    )
    return "\n".join([text, *faults[:20]]), not faults
