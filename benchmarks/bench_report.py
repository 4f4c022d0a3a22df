"""What the report of a study costs, beside the grading of the same study: composing and checking against the networks.

    python -m benchmarks.bench_report [--bundle DIR] [--rounds N] [--json]

A synthetic patient of 40 axial slices, JPEG-LS on disk, as a scanner sends it. CPU time of this process; the networks
get one thread, because threads that wait for each other burn time, on a busy machine three times what the work takes.
Grading and report take turns, and the best round of each counts.
Ends with 1 when the report takes more than its share of the grading.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from stenosis_node import report, series
from stenosis_node.config import Report
from stenosis_node.domain import AxialSeries
from stenosis_node.grading.pipeline import Pipeline
from stenosis_node.report import ReportContext, check, compose
from stenosis_node.work.study import find, sagittal_of, select
from training.phantom.patient import draw_patient
from training.phantom.sample import WISHES
from training.phantom.seeds import SAMPLE_SEED
from training.phantom.study import Compression, write_study

BUNDLE = Path(__file__).parents[1] / "deploy" / "bundles" / "phantom-1"
SLABS, PER_SLAB = 5, 8
LIMIT = 0.15
"""Most that composing and checking may take of the CPU time of grading."""
STEPS = ("grade", "compose", "check")


class Bench:
    """One study on disk, and what is made of it."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        wishes = replace(WISHES, slices_per_slab=PER_SLAB, slab_discs=WISHES.slab_discs[-SLABS:])
        write_study(draw_patient(SAMPLE_SEED, 0, wishes=wishes), folder, compression=Compression.JPEG_LS)
        (self._selection,) = select(series.scan(series.find_files(folder)), ())
        self._images = tuple(series.read(headers, decision=how) for headers, how in self._selection.reported)
        self._pipeline = Pipeline.load(bundle, threads=1)
        self._pipeline.grade(_beginning(self._images[0]))
        self.slices = sum(len(image.slices) for image in self._images)
        self.documents = 0

    def round(self) -> dict[str, float]:
        """CPU seconds of each step."""
        seconds: dict[str, float] = {}
        with _cpu_time(seconds, "grade"):
            findings = find(self._selection, self._images, self._pipeline)
        context = ReportContext(
            key=report.content_key(findings, Report()),
            created=datetime.now(UTC),
            settings=Report(),
            ae_title="STENOSIS",
        )
        with _cpu_time(seconds, "compose"):
            sagittal = sagittal_of(self._selection, findings)
            documents = compose(findings, self._images, context, sagittal)
        with _cpu_time(seconds, "check"):
            check(documents, findings, self._images, sagittal)
        self.documents = len(documents)
        return seconds


def _beginning(image: AxialSeries) -> AxialSeries:
    """Enough to warm up."""
    return replace(image, slices=image.slices[:2])


@contextmanager
def _cpu_time(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.process_time()
    yield
    seconds[step] = time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.bundle)
        rounds = [bench.round() for _ in range(options.rounds)]
    best = {step: min(one[step] for one in rounds) for step in STEPS}
    share = (best["compose"] + best["check"]) / best["grade"]
    if options.json:
        print(json.dumps({"slices": bench.slices, "documents": bench.documents, "cpu_s": best, "share": share}))
    else:
        print(f"{bench.slices} slices, {bench.documents} documents; best of {options.rounds} rounds")
        print(f"{'step':12}{'CPU s':>8}{'of grading':>12}")
        for step in STEPS:
            print(f"{step:12}{best[step]:8.2f}{best[step] / best['grade']:11.1%}")
        print(f"composing and checking: {share:.1%} of grading; the limit is {LIMIT:.0%}")
    sys.exit(share > LIMIT)


if __name__ == "__main__":
    main()
