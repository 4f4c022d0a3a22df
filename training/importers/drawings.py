"""Boxes drawn with annotation tools: COCO and YOLO. A category or class says region and grade through the mapping."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.importers.intake import Intake, short
from training.importers.mapping import BoxFormat, Label, Mapping
from training.labels.errors import LabelError
from training.labels.rows import LabelRow

COCO_BOX = BoxFormat(layout="xywh")
YOLO_BOX = BoxFormat(layout="cxcywh", normalised=True)


def import_coco(source: Path, mapping: Mapping, intake: Intake) -> Iterator[LabelRow]:
    """Rows of a COCO file of detections. Raises LabelError when it is none."""
    root = source.parent
    folder = intake.images or root / (mapping.images or ".")
    try:
        whole = json.loads(source.read_text(encoding="utf-8"))
        names = {one["id"]: str(one["name"]) for one in whole["categories"]}
        pictures = {one["id"]: one for one in whole["images"]}
        drawn: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for one in whole["annotations"]:
            drawn[one["image_id"]].append(one)
        files = {number: folder / str(one["file_name"]) for number, one in pictures.items()}
        boxes = {
            number: [(names.get(one.get("category_id")), one.get("bbox")) for one in drawn.get(number, ())]
            for number in pictures
        }
    except OSError as error:
        raise LabelError(f"{source} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{source} is no COCO file: {type(error).__name__} at {error}") from error
    _check_classes(set(names.values()), mapping, source)
    for number in drawn.keys() - pictures.keys():
        intake.leave_out(f"{source.name}: image {number}", "annotations of an image that is not listed")
    for number, facts in intake.steps(list(pictures.items()), "reading labels"):
        path = files[number]
        size = facts.get("width"), facts.get("height")
        yield from _rows(path, boxes[number], COCO_BOX, mapping, intake, root, size=size)


def import_yolo(source: Path, mapping: Mapping, intake: Intake) -> Iterator[LabelRow]:
    """Rows of a folder with ``images/`` and, beside it, ``labels/``: one text file per image. Raises LabelError."""
    labels, images = source / "labels", intake.images or source / (mapping.images or "images")
    for folder in (labels, images):
        if not folder.is_dir():
            raise LabelError(f"{folder} does not exist; a YOLO set has the folders images and labels")
    by_stem = {path.relative_to(images).with_suffix(""): path for path in sorted(images.rglob("*")) if path.is_file()}
    texts = {path.relative_to(labels).with_suffix(""): path for path in sorted(labels.rglob("*.txt"))}
    texts = {stem: path for stem, path in texts.items() if path.name != "classes.txt"}
    lines = {stem: _yolo_lines(path) for stem, path in texts.items()}
    _check_classes({name for found in lines.values() for name, _ in found}, mapping, labels)
    for stem in sorted(texts.keys() - by_stem.keys()):
        intake.leave_out(f"labels/{stem}.txt", "no image of this name")
    for stem, path in intake.steps(sorted(by_stem.items()), "reading labels"):
        if stem not in texts:
            intake.leave_out(short(path, source), "no file of labels of this name")
        else:
            yield from _rows(path, lines[stem], YOLO_BOX, mapping, intake, source)


def _yolo_lines(path: Path) -> list[tuple[str, list[float] | None]]:
    """(class, box or None when it is none) per line."""
    found: list[tuple[str, list[float] | None]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, *numbers = line.split() or [""]
        if not name:
            continue
        try:
            box = [float(number) for number in numbers]
        except ValueError:
            box = []
        found.append((name, box if len(box) == 4 else None))
    return found


def _rows(
    path: Path,
    boxes: Sequence[tuple[str | None, Any]],
    form: BoxFormat,
    mapping: Mapping,
    intake: Intake,
    root: Path,
    size: tuple[Any, Any] = (None, None),
) -> Iterator[LabelRow]:
    what = short(path, root)
    if len(boxes) != 1:
        intake.leave_out(what, "several boxes on one image" if boxes else "no box on the image")
        return
    name, values = boxes[0]
    if name is None:
        intake.leave_out(what, "the category of the box is not among the categories of the file")
        return
    slices = intake.read(path, root)
    if len(slices) != 1:
        if slices:
            intake.leave_out(what, "several frames: a box of this format cannot name one")
        return
    image = slices[0]
    if None not in size and size != (image.columns, image.rows):
        intake.leave_out(
            f"{what}: {size[0]} x {size[1]} in the labels, {image.columns} x {image.rows} in the image",
            "drawn on an image of another size",
        )
        return
    try:
        a, b, c, d = (float(value) for value in values)
        box = form.box((a, b, c, d), image.columns, image.rows)
    except (TypeError, ValueError):
        intake.leave_out(what, "the box is no box")
        return
    label: Label = mapping.classes[name]
    row = intake.row(image, label, root=root, box=box, box_source=mapping.box.source)
    if row is not None:
        yield row


def _check_classes(names: set[str], mapping: Mapping, source: Path) -> None:
    missing = sorted(names - mapping.classes.keys())
    if missing:
        raise LabelError(
            f"{source}: the mapping does not say what {', '.join(map(repr, missing))} means; add a line such as "
            f'[classes] "{missing[0]}" = {{ region = "rootlet", grade = "B" }}'
        )
