"""COCO, YOLO and a folder per class, each in the layout its tools write."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.training.importers.conftest import reasons
from training.importers.intake import Intake
from training.importers.kinds import Kind
from training.importers.mapping import Label, Mapping
from training.importers.run import run_import
from training.labels.errors import LabelError
from training.labels.rows import Region

Write = Callable[..., Path]
CLASSES = {
    "rootlet C": Label.model_validate({"region": "rootlet", "grade": "C"}),
    "cord": Label(region=Region.CORD),
}
BY_PATIENT = re.compile(r"(p\d+)_")


def coco(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> Path:
    categories = [{"id": 7, "name": "cord"}, {"id": 3, "name": "rootlet C"}]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(whole), encoding="utf-8")
    return path


def test_coco_boxes_are_corner_and_size(tmp_path: Path, picture: Write, intake: Intake) -> None:
    names = ["p1_a.png", "p1_b.png", "p2_a.png", "p2_b.png", "p3_a.png"]
    for name in names:
        picture(f"images/{name}")
    images = [{"id": 10 + i, "file_name": name, "width": 100, "height": 80} for i, name in enumerate(names)]
    images[4] |= {"width": 80, "height": 100}
    images.append({"id": 50, "file_name": "gone.png", "width": 100, "height": 80})
    boxes = [(10, 3, [20, 10, 30.5, 25]), (11, 7, [5, 6, 7, 8]), (12, 7, [90, 10, 30, 20])]
    boxes += [(14, 7, [1, 1, 5, 5]), (50, 7, [1, 1, 5, 5]), (99, 7, [1, 1, 5, 5])]
    annotations = [
        {"id": i, "image_id": image, "category_id": kind, "bbox": box} for i, (image, kind, box) in enumerate(boxes)
    ]
    intake.patient_pattern = BY_PATIENT
    words = Mapping(images="images", classes=CLASSES)
    frame = run_import(Kind.COCO, coco(tmp_path / "labels.json", images, annotations), words, intake).frame
    assert frame[["x0", "y0", "x1", "y1"]].values.tolist() == [[20, 10, 50.5, 35], [5, 6, 12, 14]]
    assert frame[["region", "grade"]].values.tolist() == [["rootlet", "C"], ["cord", ""]]
    assert frame["patient_key"].nunique() == 1
    assert reasons(intake) == {
        "annotations of an image that is not listed": ["labels.json: image 99"],
        "the box lies outside the image": ["images/p2_a.png: (90, 10, 120, 30) in 100 x 80"],
        "no box on the image": ["images/p2_b.png"],
        "drawn on an image of another size": ["images/p3_a.png: 80 x 100 in the labels, 100 x 80 in the image"],
        "the image does not exist": ["images/gone.png"],
    }


def test_a_box_of_a_category_that_is_not_listed_is_left_out(tmp_path: Path, picture: Write, intake: Intake) -> None:
    names = ["p1_a.png", "p1_b.png", "p2_a.png"]
    for name in names:
        picture(name)
    images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    annotations: list[dict[str, Any]] = [
        {"image_id": 0, "category_id": 3, "bbox": [20, 10, 30, 25]},
        {"image_id": 1, "category_id": 9, "bbox": [20, 10, 30, 25]},
        {"image_id": 2, "bbox": [20, 10, 30, 25]},
    ]
    intake.patient_pattern = BY_PATIENT
    source = coco(tmp_path / "labels.json", images, annotations)
    frame = run_import(Kind.COCO, source, Mapping(classes=CLASSES), intake).frame
    assert frame["grade"].tolist() == ["C"]
    assert reasons(intake) == {
        "the category of the box is not among the categories of the file": ["p1_b.png", "p2_a.png"]
    }


def test_a_category_without_a_meaning_and_a_file_of_another_kind_are_refused(tmp_path: Path, intake: Intake) -> None:
    source = coco(tmp_path / "labels.json", [], [])
    with pytest.raises(LabelError, match=r"does not say what 'cord', 'rootlet C' means; add a line"):
        run_import(Kind.COCO, source, Mapping(), intake)
    source.write_text('{"images": []}', encoding="utf-8")
    with pytest.raises(LabelError, match="is no COCO file"):
        run_import(Kind.COCO, source, Mapping(), intake)


def test_yolo_boxes_are_shares_around_the_middle(tmp_path: Path, picture: Write, intake: Intake) -> None:
    lines = {
        "train/p1_a": "0 0.5 0.5 0.2 0.25\n",
        "train/p1_b": "",
        "val/p2_a": "1 0.05 0.5 0.1000001 0.5\n",
        "val/p2_b": "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.3 0.3\n",
        "val/p2_c": "0 0.5 0.5 0.2\n",
    }
    for name, text in lines.items():
        picture(f"images/{name}.png")
        path = tmp_path / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    picture("images/val/p3_a.png")
    (tmp_path / "labels" / "val" / "p9_z.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    (tmp_path / "labels" / "classes.txt").write_text("rootlet C\ncord\n", encoding="utf-8")
    intake.patient_pattern = BY_PATIENT
    words = Mapping(classes={"0": CLASSES["rootlet C"], "1": CLASSES["cord"]})
    frame = run_import(Kind.YOLO, tmp_path, words, intake).frame
    assert frame[["x0", "y0", "x1", "y1"]].values.tolist() == [[40, 30, 60, 50], pytest.approx([0, 20, 10, 60])]
    assert frame["region"].tolist() == ["rootlet", "cord"]
    assert reasons(intake) == {
        "no image of this name": ["labels/val/p9_z.txt"],
        "no box on the image": ["images/train/p1_b.png"],
        "several boxes on one image": ["images/val/p2_b.png"],
        "the box is no box": ["images/val/p2_c.png"],
        "no file of labels of this name": ["images/val/p3_a.png"],
    }


def test_a_folder_per_class(tmp_path: Path, picture: Write, study: list[Path], intake: Intake) -> None:
    for name in ("set/A/p1_a.png", "set/C/p1_b.png", "set/cord/p2_a.png", "set/readme/p2_b.png"):
        picture(name)
    (tmp_path / "set" / "other").mkdir()
    study[0].rename(tmp_path / "set" / "other" / "slice.dcm")
    (tmp_path / "set" / "A" / "broken.png").write_bytes(b"\x89PNG")
    intake.patient_pattern = BY_PATIENT
    frame = run_import(Kind.FOLDERS, tmp_path / "set", Mapping(), intake).frame
    assert sorted(frame[["region", "grade"]].values.tolist()) == [
        ["cord", ""],
        ["other", ""],
        ["rootlet", "A"],
        ["rootlet", "C"],
    ]
    assert frame["x0"].isna().all()
    left_out = reasons(intake)
    assert left_out.pop("in no folder of a class") == ["readme/p2_b.png"]
    assert list(left_out.values()) == [["A/broken.png"]]
    with pytest.raises(LabelError, match=r"no folder below .* is one of rootlet, cord, other, A, B, C, D"):
        run_import(Kind.FOLDERS, tmp_path / "dicom", Mapping(), intake)
