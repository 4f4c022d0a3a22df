"""Training slices a second, this loop beside a plain PyTorch loop of the same network, in one run.

The plain loop is what one writes first: fp32, contiguous tensors, each image read and prepared again in every epoch by
the process that trains. Ours keeps what the network sees on disk, prepares it in a second process and computes in
bfloat16, channels last, where the processor does it natively. Each way runs in a process of its own, in turns; the best
round of each counts. Waiting is the share of time in which the network had no batch.

    python -m benchmarks.bench_training [--stage grade] [--patients N] [--steps N] [--rounds N] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

WAYS = ("this loop", "plain PyTorch loop")
SEED = 79
"""Of patients with every grade among the first six."""


def ours(folder: Path, stage: str, steps: int) -> dict[str, float]:
    """One epoch of ``steps`` batches, the first of them included."""
    from training.labels.manifest import read_manifest
    from training.learning.fit import Machine, fit
    from training.learning.labels import labelled
    from training.learning.store import open_store
    from training.recipes import DEFAULT, Stage

    path = folder / "set" / "manifest.csv"
    manifest = read_manifest(path)
    store = open_store(manifest, path, folder / "cache")
    slices = labelled(manifest, store, "consensus")
    recipe = DEFAULT.stage(Stage(stage))
    recipe = replace(recipe, epochs=1, slices_per_epoch=steps * recipe.batch_size, validation_slices=8)
    with tempfile.TemporaryDirectory() as out:
        fitted = fit(recipe, store, slices, slices, Path(out), seed=SEED, machine=Machine(workers=1))
    return {"slices_per_s": fitted.slices_per_s, "waiting_share": fitted.waiting_share}


def plain(folder: Path, stage: str, steps: int) -> dict[str, float]:
    """The same network, loss, optimizer and batches, without any of the rest."""
    import torch

    from stenosis_node.grading.manifest import LocateInput, PatchInput
    from stenosis_node.grading.preprocess import make_canvas, make_context_patch, make_upright
    from training.labels.manifest import read_manifest
    from training.learning.items import CROP_PX
    from training.learning.labels import labelled
    from training.learning.networks import build, loss_of
    from training.learning.sampling import class_of, epoch_draws, usable
    from training.learning.series import key_of, read_stack
    from training.learning.store import open_store
    from training.recipes import DEFAULT, Stage

    path = folder / "set" / "manifest.csv"
    manifest = read_manifest(path)
    slices = labelled(manifest, open_store(manifest, path, folder / "cache"), "consensus")
    recipe = DEFAULT.stage(Stage(stage))
    recipe = replace(recipe, slices_per_epoch=steps * recipe.batch_size)
    network = build(recipe).to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate)
    draws = epoch_draws(usable(slices, recipe.stage), recipe, seed=SEED, epoch=0)
    rows = {(key[1], key[2]): manifest[manifest["sop_uid"] == key[2]] for key in {draw.slice.key for draw in draws}}
    waited = 0.0
    begun = time.perf_counter()
    for step in range(steps):
        fetching = time.perf_counter()
        images, boxes, targets = [], [], []
        for draw in draws[step * recipe.batch_size : (step + 1) * recipe.batch_size]:
            one = draw.slice
            stack = read_stack(one.key[0], one.key[1], rows[one.key[1], one.key[2]], path)
            (piece,) = (p for p in stack.slices if key_of(one.key[0], p) == one.key)
            if piece.pixels is None or one.box is None:
                raise RuntimeError("phantoms can be read")
            image, box = make_upright(piece.pixels, piece.plane), one.entry.upright(one.box)
            if recipe.stage is Stage.LOCATE:
                canvas = make_canvas(image, LocateInput())
                x0, y0, x1, y1 = canvas.from_image(box)
                left, top = max(0, int(x0) - CROP_PX // 2), max(0, int(y0) - CROP_PX // 2)
                crop = canvas.pixels[top : top + CROP_PX, left : left + CROP_PX]
                rest = (0, CROP_PX - crop.shape[1], 0, CROP_PX - crop.shape[0])
                images.append(torch.nn.functional.pad(crop, rest))
                boxes.append(torch.tensor([[x0 - left, y0 - top, x1 - left, y1 - top]]))
            else:
                images.append(make_context_patch([None, image, None], box.center, PatchInput()).pixels)
                classes = 2 if recipe.stage is Stage.CLASSIFY else 4
                label = torch.tensor(class_of(one, recipe.stage))
                targets.append(torch.nn.functional.one_hot(label, classes).float())
        waited += time.perf_counter() - fetching
        batch = (torch.stack(images), boxes or torch.stack(targets))
        loss = loss_of(network, batch, recipe, torch.device("cpu"))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    seconds = time.perf_counter() - begun
    return {"slices_per_s": steps * recipe.batch_size / seconds, "waiting_share": waited / seconds}


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("locate", "classify", "grade"), default="grade")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        measured = (ours if options.way == WAYS[0] else plain)(options.folder, options.stage, options.steps)
        largest = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        measured["peak_mb"] = sum(largest) / 1024  # the process that trains, and the one that prepares
        print(json.dumps(measured))
        return
    best: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder), options.patients)
        for _ in range(options.rounds):
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.bench_training", "--way", way, "--folder", folder]
                command += ["--stage", options.stage, "--steps", str(options.steps)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                measured = json.loads(done.stdout.splitlines()[-1])
                if way not in best or measured["slices_per_s"] > best[way]["slices_per_s"]:
                    best[way] = measured
    if options.json:
        print(json.dumps({"stage": options.stage, "ways": best}, indent=1))
        return
    print(f"{'stage ' + options.stage:24} {'slices/s':>9} {'ratio':>6} {'waiting':>8} {'peak MB':>8}")
    for way in WAYS:
        row = best[way]
        ratio = row["slices_per_s"] / best[WAYS[1]]["slices_per_s"]
        waiting = 100 * row["waiting_share"]
        print(f"{way:24} {row['slices_per_s']:9.1f} {ratio:6.2f} {waiting:6.1f} % {row['peak_mb']:8.0f}")


def _prepare(folder: Path, patients: int) -> None:
    from training.labels.manifest import read_manifest
    from training.learning.store import open_store
    from training.phantom.command import write_set

    write_set(folder / "set", seed=SEED, indices=range(patients))
    path = folder / "set" / "manifest.csv"
    open_store(read_manifest(path), path, folder / "cache")


if __name__ == "__main__":
    main()
