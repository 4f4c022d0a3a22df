"""``stenosis-train phantom``: studies of phantom patients with their truth."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from training.labels.errors import LabelError
from training.phantom import GENERATOR_VERSION
from training.phantom.labelling import label_rows
from training.phantom.patient import draw_patient
from training.phantom.study import Compression, write_study

_MB_PER_PATIENT: Final = {
    Compression.NONE: 22,
    Compression.JPEG_LS: 11,
    Compression.JPEG_2000: 11,
    Compression.RLE: 20,
}
"""Upper bounds for a 384 x 384 matrix and 40 slices in two contrasts."""


class PhantomError(Exception):
    """The phantoms could not be written; the text says why and what to do."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(phantom)


def phantom(
    out: Annotated[Path | None, typer.Option(help="Folder for the studies; new or empty.")] = None,
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the set; phantom/seeds.py lists what is reserved.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Index of the first patient.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 1,
    compression: Annotated[Compression, typer.Option(help="Lossless compression of the pixels.")] = Compression.NONE,
    sample: Annotated[Path | None, typer.Option(help="Draw the patient of sample_series/ into this folder.")] = None,
) -> None:
    """Draw phantom patients as DICOM studies: truth.json in each, manifest.csv with the truth and two readers' labels.

    Decided by seed, index and generator version alone.
    """
    if (out is None) == (sample is None):
        raise typer.BadParameter("give either --out (a set) or --sample (the sample study)")
    try:
        if sample is not None:
            from training.phantom.sample import write_sample

            slices = write_sample(sample)["axial_t2"]["slices"]
            typer.echo(f"{sample}: the sample study, {len(slices)} axial T2 slices, and expected.json")
        elif out is not None:
            write_set(out, seed=seed, indices=range(first, first + patients), workers=workers, compression=compression)
            typer.echo(f"{out}: {patients} studies, manifest.csv (generator version {GENERATOR_VERSION}, seed {seed})")
    except (PhantomError, LabelError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    except OSError as error:
        typer.echo(_explain(error), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the studies that are complete stay, no manifest was written", err=True)
        raise typer.Exit(130) from None


def write_set(
    out: Path, *, seed: int, indices: range, workers: int = 1, compression: Compression = Compression.NONE
) -> None:
    """Write patients ``indices`` of a set below ``out``, one folder each, and ``manifest.csv`` last.

    Raises PhantomError when the folder is in use or the disk too small, OSError when writing fails.
    """
    from training.labels.manifest import from_rows, write_manifest  # pandas: half a second that --help can do without

    _prepare(out, len(indices), compression)
    truths: dict[int, dict[str, Any]] = {}
    with _progress(len(indices)) as advance:
        for truth in _write_all(out, seed, indices, workers, compression):
            truths[truth["index"]] = truth
            advance()
    rows = (row for index in indices for row in label_rows(truths[index], _folder(index)))
    write_manifest(from_rows(rows, "phantoms"), out / "manifest.csv")


def _folder(index: int) -> str:
    return f"patient-{index:05d}"


def _prepare(out: Path, patients: int, compression: Compression) -> None:
    if out.exists() and not out.is_dir():
        raise PhantomError(f"{out} is a file; --out names a folder")
    if out.exists() and any(out.iterdir()):
        raise PhantomError(f"{out} is not empty; name a new folder, or empty it first")
    out.mkdir(parents=True, exist_ok=True)
    needed, free = patients * _MB_PER_PATIENT[compression] * 10**6, shutil.disk_usage(out).free
    if needed > free:
        raise PhantomError(
            f"{patients} patients may take {needed / 1e9:.1f} GB, but {out} has {free / 1e9:.1f} GB free;"
            " draw fewer, compress (--compression jpeg-ls), or name another disk"
        )


def _write_all(
    out: Path, seed: int, indices: range, workers: int, compression: Compression
) -> Iterator[dict[str, Any]]:
    if workers == 1:
        for index in indices:
            yield _write_one(out, seed, index, compression)
        return
    with ProcessPoolExecutor(min(workers, len(indices)), mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(_write_one, out, seed, index, compression) for index in indices]
        try:
            for done in as_completed(tasks):
                yield done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_one(out: Path, seed: int, index: int, compression: Compression) -> dict[str, Any]:
    """A study appears under its name only when it is complete."""
    partial = out / f".{_folder(index)}"
    partial.mkdir()
    try:
        truth = write_study(draw_patient(seed, index), partial, compression=compression)
        (partial / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(out / _folder(index))
    return truth


def _explain(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full; the studies that are complete stay. Free some space and draw into a new folder"
    where = f" ({error.filename})" if error.filename else ""
    return f"cannot write the phantoms: {os.strerror(error.errno) if error.errno else error}{where}"


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error; yields what to call after each patient."""
    columns = (TextColumn("drawing patients"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("patients", total=total)
        yield lambda: bar.advance(task)
