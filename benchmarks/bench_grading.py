"""Grading a series three ways, in one run: this pipeline, the same networks one by one in fp32, the plain reading.

The plain reading of the paper is torchvision's ``fasterrcnn_resnet50_fpn`` as it comes (800 px, fp32, one slice at a
time) with the same two classifiers in fp32. Each way runs in its own process, in turns, so that memory peaks are its
own and a busy machine slows all of them; the best round of each counts.

    python -m benchmarks.bench_grading [--bundle DIR] [--slices N] [--rounds N] [--busy N] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

WAYS = ("pipeline", "same networks, fp32, one by one", "plain reading, 800 px, fp32, one by one")
BUNDLE = Path(__file__).parents[1] / "deploy" / "bundles" / "phantom-1"
FIELD_MM, MATRIX = 200.0, 320


def measure(way: str, bundle: Path, n_slices: int) -> dict[str, float]:
    """Slices per second of one way, after warming up, and the peak memory of this process in MB."""
    import numpy as np

    from training.phantom.draw import draw_slice
    from training.phantom.stack import as_series

    drawn = [draw_slice(np.random.default_rng(seed), matrix=MATRIX, fov_mm=FIELD_MM) for seed in range(n_slices)]
    series = as_series(drawn)
    grade = {WAYS[0]: _pipeline, WAYS[1]: _same_networks, WAYS[2]: _plain_reading}[way](bundle)
    grade(series.slices[:2])
    start = time.perf_counter()
    grade(series.slices)
    seconds = time.perf_counter() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"slices_per_s": n_slices / seconds, "peak_mb": peak_mb}


def _pipeline(bundle: Path) -> Callable[..., None]:
    from dataclasses import replace

    from stenosis_node.grading.pipeline import Pipeline
    from training.phantom.stack import as_series

    pipeline = Pipeline.load(bundle)
    frame = as_series([])

    def grade(slices) -> None:  # type: ignore[no-untyped-def]
        pipeline.grade(replace(frame, slices=tuple(slices)))

    return grade


def _same_networks(bundle: Path) -> Callable[..., None]:
    import torch

    from stenosis_node.grading.bundle import read_bundle
    from stenosis_node.grading.preprocess import make_canvas, make_patch, make_upright

    manifest, networks = read_bundle(bundle)
    for network in (networks.locate, networks.classify, networks.grade):
        network.eval()

    def grade(slices) -> None:  # type: ignore[no-untyped-def]
        for item in slices:
            image = make_upright(item.pixels, item.geometry)
            canvas = make_canvas(image, manifest.locate_input)
            with torch.inference_mode():
                networks.locate([canvas.pixels.expand(3, -1, -1)])
                center = image.shape[1] / 2, image.shape[0] / 2
                patch = make_patch(image, center, manifest.patch_input).pixels
                for network in (networks.classify, networks.grade):
                    network(_seen_by(network, patch))

    return grade


def _seen_by(network: Any, patch: Any) -> Any:
    """A batch of one patch; the slice itself stands for its neighbours, which cost the same."""
    n_channels = next(network.parameters()).shape[1]
    return patch.expand(1, n_channels, -1, -1)


def _plain_reading(bundle: Path) -> Callable[..., None]:
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn

    from stenosis_node.grading.bundle import read_bundle
    from stenosis_node.grading.preprocess import make_patch, make_upright

    manifest, networks = read_bundle(bundle)
    detector = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    for network in (detector, networks.classify, networks.grade):
        network.eval()

    def grade(slices) -> None:  # type: ignore[no-untyped-def]
        for item in slices:
            image = make_upright(item.pixels, item.geometry)
            with torch.inference_mode():
                detector([(image.pixels / image.pixels.max()).expand(3, -1, -1)])
                center = image.shape[1] / 2, image.shape[0] / 2
                patch = make_patch(image, center, manifest.patch_input).pixels
                for network in (networks.classify, networks.grade):
                    network(_seen_by(network, patch))

    return grade


def _in_own_process(way: str, bundle: Path, n_slices: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.bench_grading",
        "--way",
        way,
        "--bundle",
        str(bundle),
        "--slices",
        str(n_slices),
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextlib.contextmanager
def _busy(n: int) -> Iterator[None]:
    """So many other programs that compute all the while."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def _compare(bundle: Path, n_slices: int, rounds: int) -> dict[str, dict[str, float]]:
    best: dict[str, dict[str, float]] = {}
    for turn in range(rounds):
        for way in WAYS:
            result = _in_own_process(way, bundle, n_slices)
            print(f"round {turn + 1}: {way}: {result['slices_per_s']:.2f} slices/s", file=sys.stderr, flush=True)
            if way not in best or result["slices_per_s"] > best[way]["slices_per_s"]:
                best[way] = result
    for way in WAYS:
        best[way]["ratio"] = best[WAYS[0]]["slices_per_s"] / best[way]["slices_per_s"]
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0, help="other programs that compute meanwhile")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.bundle, options.slices)))
        return
    with tempfile.TemporaryDirectory() as scratch, _busy(options.busy):
        bundle = options.bundle
        if not (bundle / "manifest.json").exists():
            from training.export import write_untrained_bundle

            print(f"{bundle} holds no bundle: timing random weights", file=sys.stderr)
            bundle = Path(scratch) / "untrained"
            write_untrained_bundle(bundle)
        results = _compare(bundle, options.slices, options.rounds)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    print(
        f"{options.slices} slices of {MATRIX} x {MATRIX} px, {FIELD_MM:g} mm; best of {options.rounds} rounds; "
        f"{options.busy} busy programs beside"
    )
    print(f"{'way':44}{'slices/s':>10}{'pipeline is':>14}{'peak MB':>10}")
    for way, result in results.items():
        print(f"{way:44}{result['slices_per_s']:10.2f}{result['ratio']:12.1f} x{result['peak_mb']:10.0f}")


if __name__ == "__main__":
    main()
