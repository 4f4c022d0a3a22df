"""What the report of a study costs, beside the grading of the same study: composing and checking against the networks.

    python -m benchmarks.bench_report [--bundle DIR] [--rounds N] [--json]

A synthetic patient of 40 axial slices, JPEG-LS on disk, as a scanner sends it. CPU time of this process, set up as the
grading process of a node is: threads are left to torch. The same on one thread stands beside it, because threads that
wait for each other burn time. Reports are made as a peer gets them by default (``captures = "key"``), and with
everything there is. Grading and report take turns, and the best round of each counts.
Ends with 1 when the default report takes more than its share of the grading as it is set up.
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
from stenosis_node.config import Grading, Report
from stenosis_node.domain import AxialSeries
from stenosis_node.report import ReportContext, Wanted, check, compose
from stenosis_node.work.grade import load_pipeline
from stenosis_node.work.study import find, sagittal_of, select
from training.phantom.patient import draw_patient
from training.phantom.sample import WISHES
from training.phantom.seeds import SAMPLE_SEED
from training.phantom.study import Compression, write_study

BUNDLE = Path(__file__).parents[1] / "deploy" / "bundles" / "phantom-1"
SLABS, PER_SLAB = 5, 8
LIMIT = 0.15
"""Most that composing and checking may take of the CPU time of grading."""
THREADS = {"as set up": 0, "one thread": 1}
"""Setting of the grading process by its name; in this order, because torch does not forget a number."""
LEVELS = {"key": Wanted.by(()), "all": Wanted()}


class Bench:
    """One study on disk, and what is made of it."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        wishes = replace(WISHES, slices_per_slab=PER_SLAB, slab_discs=WISHES.slab_discs[-SLABS:])
        write_study(draw_patient(SAMPLE_SEED, 0, wishes=wishes), folder, compression=Compression.JPEG_LS)
        (self._selection,) = select(series.scan(series.find_files(folder)), ())
        self._images = tuple(series.read(headers, decision=how) for headers, how in self._selection.reported)
        self._bundle = bundle
        self.slices = sum(len(image.slices) for image in self._images)
        self.documents: dict[str, int] = {}
        self.best: dict[str, float] = {}
        """CPU seconds of each step, of the best round."""

    def run(self, name: str, rounds: int) -> None:
        """Grade and report, in turns."""
        pipeline = load_pipeline(Grading(bundle=self._bundle, threads=THREADS[name]))
        pipeline.grade(_beginning(self._images[0]))
        for _ in range(rounds):
            with self._cpu_time(f"grade, {name}"):
                findings = find(self._selection, self._images, pipeline)
            for level, wanted in LEVELS.items():
                context = ReportContext(
                    key=report.content_key(findings, Report(), wanted),
                    created=datetime.now(UTC),
                    settings=Report(),
                    ae_title="STENOSIS",
                    wanted=wanted,
                )
                with self._cpu_time(f"compose {level}"):
                    sagittal = sagittal_of(self._selection, findings)
                    documents = compose(findings, self._images, context, sagittal)
                with self._cpu_time(f"check {level}"):
                    check(documents, findings, self._images, sagittal, wanted)
                self.documents[level] = len(documents)

    def report_s(self, level: str) -> float:
        """CPU seconds of a report."""
        return self.best[f"compose {level}"] + self.best[f"check {level}"]

    def share(self, level: str, name: str) -> float:
        """Of the CPU time of grading."""
        return self.report_s(level) / self.best[f"grade, {name}"]

    @contextmanager
    def _cpu_time(self, step: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.best[step] = min(self.best.get(step, float("inf")), time.process_time() - start)


def _beginning(image: AxialSeries) -> AxialSeries:
    """Enough to warm up."""
    return replace(image, slices=image.slices[:2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch), options.bundle)
        for name in THREADS:
            bench.run(name, options.rounds)
    shares = {f"{level}, {name}": bench.share(level, name) for level in LEVELS for name in THREADS}
    if options.json:
        figures = {"slices": bench.slices, "documents": bench.documents, "cpu_s": bench.best, "share": shares}
        print(json.dumps(figures))
    else:
        _print(bench, options.rounds)
    sys.exit(bench.share("key", "as set up") > LIMIT)


def _print(bench: Bench, rounds: int) -> None:
    print(f"{bench.slices} slices; best of {rounds} rounds, CPU seconds")
    for step, seconds in bench.best.items():
        print(f"  {step:20}{seconds:8.2f}")
    print("composing and checking, as a share of grading:")
    for level, documents in bench.documents.items():
        shares = ", ".join(f"{bench.share(level, name):.1%} ({name})" for name in THREADS)
        print(f"  {level:4}{documents:3} documents: {shares}")
    print(f"the limit is {LIMIT:.0%} for key as set up")


if __name__ == "__main__":
    main()
