"""The Sudirman label images: names and gray values as in the real set, drawn small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image as Picture
from scipy import ndimage

from tests.unit.training.importers.conftest import reasons
from training.importers.intake import Intake
from training.importers.kinds import Kind
from training.importers.mapping import Mapping
from training.importers.run import run_import
from training.importers.sudirman import PIXEL_MM
from training.labels.errors import LabelError

SIDE = 120
SAC = (slice(50, 64), slice(48, 68))
"""14 rows, 20 columns."""
MARGIN = 3 / PIXEL_MM
Bytes = npt.NDArray[np.uint8]


def texture(seed: int) -> Bytes:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((SIDE, SIDE)), 3)
    return np.asarray(128 + 60 * noise / np.abs(noise).max(), np.uint8)


def save(root: Path, kind: str, name: str, values: Bytes, mode: str = "L") -> None:
    folders = {
        "L1": "05_Final_Ground_Truth_Data/Label_Images",
        "T1": "04_Intermediary_Ground_Truth_Data/T1_Output",
        "T2": "04_Intermediary_Ground_Truth_Data/T2_Output",
    }
    path = root / folders[kind] / f"{kind}_{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(values).convert(mode).save(path)


def label() -> Bytes:
    values = np.full((SIDE, SIDE), 250, np.uint8)
    values[20:50, 30:90] = 50
    values[64:80, 45:70] = 100
    values[SAC] = 150
    values[100:104, 5:9] = 150  # a stray spot of the same value
    values[40:50, 60:64] = 200
    return values


def disc(root: Path, name: str, seed: int, *, shift: tuple[int, int] = (0, 0)) -> None:
    """Label and T1 at one place, T2 moved by (columns, rows); the T2 has other brightness."""
    t1 = texture(seed)
    save(root, "L1", name, label())
    save(root, "T1", name, t1)
    save(root, "T2", name, np.roll(255 - t1, (shift[1], shift[0]), (0, 1)))


def test_box_area_and_level_come_from_the_largest_sac(tmp_path: Path, intake: Intake) -> None:
    intake.reader = ""
    disc(tmp_path, "0001_D3", 1)
    disc(tmp_path, "0001_D5", 2)
    disc(tmp_path, "0002_D4", 3)
    frame = run_import(Kind.SUDIRMAN, tmp_path, Mapping(), intake).frame
    assert frame["level"].tolist() == ["L3/L4", "L5/S1", "L4/L5"]
    assert frame["patient_key"].nunique() == 2
    assert set(frame["region"]) == {"rootlet"}
    assert set(frame["grade_set"]) == {""}
    assert set(frame["box_source"]) == {"mask"}
    assert frame["dsca_mm2"].tolist() == pytest.approx([14 * 20 * 0.4727] * 3, rel=1e-3)
    row = frame.iloc[0]
    assert row[["x0", "y0", "x1", "y1"]].tolist() == pytest.approx([48 - MARGIN, 50 - MARGIN, 68 + MARGIN, 64 + MARGIN])
    assert row["fov_mm"] == pytest.approx(SIDE * PIXEL_MM)
    assert row["path"].endswith("T2_0001_D3.png")
    assert row["flags"] == ""
    assert intake.left_out == []


def test_the_box_follows_a_small_shift_between_t1_and_t2(tmp_path: Path, intake: Intake) -> None:
    disc(tmp_path, "0001_D3", 1, shift=(2, -3))
    disc(tmp_path, "0002_D3", 2, shift=(5, 0))
    frame = run_import(Kind.SUDIRMAN, tmp_path, Mapping(), intake).frame
    assert frame["flags"].tolist() == ["shifted"]
    assert frame.iloc[0][["x0", "y0"]].tolist() == pytest.approx([50 - MARGIN, 47 - MARGIN])
    assert reasons(intake) == {"T1 and T2 are more than 3 pixels apart": ["patient 0002, disc 3"]}


def test_pairs_that_do_not_belong_together_are_left_out(tmp_path: Path, intake: Intake) -> None:
    disc(tmp_path, "0001_D3", 1)
    disc(tmp_path, "0002_D3", 2)
    save(tmp_path, "T2", "0002_D3", texture(77))
    disc(tmp_path, "0003_D3", 3)
    save(tmp_path, "T2", "0003_D3", texture(3)[:100])
    frame = run_import(Kind.SUDIRMAN, tmp_path, Mapping(), intake).frame
    assert len(frame) == 1
    assert reasons(intake) == {
        "the edges of T1 and T2 do not match": ["patient 0002, disc 3"],
        "label image and T2 picture differ in size": ["patient 0003, disc 3"],
    }


def test_missing_pictures_and_values_are_named(tmp_path: Path, intake: Intake) -> None:
    disc(tmp_path, "0001_D3", 1)
    next(tmp_path.rglob("T1_0001_D3.png")).unlink()
    disc(tmp_path, "0002_D4", 2)
    next(tmp_path.rglob("L1_0002_D4.png")).unlink()
    disc(tmp_path, "0003_D4", 3)
    next(tmp_path.rglob("T2_0003_D4.png")).unlink()
    disc(tmp_path, "0004_D4", 4)
    save(tmp_path, "L1", "0004_D4", np.where(label() == 150, 250, label()).astype(np.uint8))
    disc(tmp_path, "0005_D4", 5)
    save(tmp_path, "L1", "0005_D4", label(), mode="P")
    disc(tmp_path, "0006_D2", 6)
    disc(tmp_path, "0007_D4", 7)
    save(tmp_path, "L1", "0007_D4", label(), mode="RGB")
    (tmp_path / "overview.png").write_bytes(b"")
    frame = run_import(Kind.SUDIRMAN, tmp_path, Mapping(), intake).frame
    assert frame["flags"].tolist() == ["shift-unknown", ""]
    left_out = reasons(intake)
    assert left_out.pop("no 8-bit gray picture: its values say nothing")[0].endswith("L1_0005_D4.png")
    assert left_out == {
        "the name is not <L1|T1|T2>_<patient>_D<disc>.png": ["overview.png"],
        "no label image": ["patient 0002, disc 4"],
        "no T2 picture": ["patient 0003, disc 4"],
        "no thecal sac (value 150) of 10 mm2 or more": ["patient 0004, disc 4"],
        "the disc is none of 3, 4 and 5": ["patient 0006, disc 2"],
    }


def test_another_folder_is_refused(tmp_path: Path, intake: Intake) -> None:
    with pytest.raises(LabelError, match=r"no label image L1_<patient>_D<disc>\.png below"):
        run_import(Kind.SUDIRMAN, tmp_path, Mapping(), intake)
