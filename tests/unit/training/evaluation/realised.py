"""Labels and predictions of 13,024 slices whose counts are those of Won 2025: Tables 1, 2, 3, 5 and 6 at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from training.evaluation.predictions import write_predictions
from training.evaluation.vocabulary import GRADES, REGIONS
from training.evaluation.won2025 import BOXED, TABLE_2, TABLE_3, TABLE_5, TABLE_6

PATIENTS = 542


def write_paper(folder: Path) -> tuple[Path, list[Path]]:
    """The label manifest of two analyzers, and one predictions file per classifier."""
    common = _common()
    alone = [BOXED[str(k)][1] - BOXED["both"][1] for k in (1, 2)]
    lost_in_common = BOXED["both"][1] - BOXED["both"][0]
    frames, chains = [], []
    for k in (1, 2):
        extra = pd.DataFrame({f"region{k}": ["rootlet"] * alone[k - 1], f"chain{k}": ["rootlet"] * alone[k - 1]})
        extra.index = pd.RangeIndex(20000 * k, 20000 * k + len(extra))
        lost = pd.DataFrame({f"region{k}": ["cord"] * lost_in_common}, index=range(90000, 90000 + lost_in_common))
        rows = pd.concat([common, extra, lost])
        missed = BOXED[str(k)][1] - BOXED[str(k)][0] - lost_in_common
        boxed = pd.Series(True, index=rows.index)
        boxed.loc[lost.index] = False
        boxed.loc[extra.index[:missed]] = False
        frames.append(_labels(rows, k))
        chains.append(_predictions(rows, boxed, k))
    labels = folder / "labels.parquet"
    pd.concat(frames, ignore_index=True).to_parquet(labels)
    paths = [folder / f"chain-{k}.parquet" for k in (1, 2)]
    for path, chain in zip(paths, chains, strict=True):
        write_predictions(chain, path)
    return labels, paths


def _common() -> pd.DataFrame:
    """The 10,965 slices in common: regions of all four, then grades of those that all call rootlet.

    Who calls rootlet is laid out so that the classifiers miss 411 of the 7,693 slices that both analyzers call so.
    """
    a2, a1 = _spread(TABLE_2)
    region = pd.DataFrame({"region1": a1, "region2": a2})
    both = region.index[(a1 == 0) & (a2 == 0)]
    region["chain1"], region["chain2"] = a1, a2
    missed = [TABLE_5[k][0][1] for k in (1, 2)]  # 409 and 207; together 411 of the slices in common
    region.loc[both[: missed[0]], "chain1"] = 1
    region.loc[both[411 - missed[1] : 411], "chain2"] = 1
    for k, analyzer in ((1, a1), (2, a2)):
        cord = region.index[analyzer == 1]
        region.loc[cord[: TABLE_5[k][1][0]], f"chain{k}"] = 0
    graded = both[411:]
    g2, g1 = _spread(TABLE_3)
    for column, codes in (("grade1", g1), ("grade2", g2)):
        region.loc[graded, column] = [GRADES[code] for code in codes]
    for k, codes in ((1, g1), (2, g2)):
        rows, columns = _spread(TABLE_6[k])
        for code in range(4):
            slices = graded[codes == code]
            region.loc[slices, f"called{k}"] = [GRADES[c] for c in columns[rows == code]]
    for name in ("region1", "region2", "chain1", "chain2"):
        region[name] = [REGIONS[code] for code in region[name]]
    return region


def _spread(counts: tuple[tuple[int, ...], ...]) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.array(counts)
    rows, columns = np.indices(matrix.shape)
    return np.repeat(rows.ravel(), matrix.ravel()), np.repeat(columns.ravel(), matrix.ravel())


def _keys(index: pd.Index) -> pd.DataFrame:
    patient = np.asarray(index) * 7919 % PATIENTS
    return pd.DataFrame(
        {
            "study_uid": [f"1.2.{p}" for p in patient],
            "series_uid": [f"1.2.{p}.1" for p in patient],
            "sop_uid": [f"1.2.{p}.1.{n}" for p, n in zip(patient, index, strict=True)],
            "patient_key": [f"{p:064x}" for p in patient],
        },
        index=index,
    )


def _labels(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    made = _keys(rows.index)
    made["path"] = "none.dcm"
    made["region"] = rows[f"region{k}"]
    made["grade"] = rows[f"grade{k}"].fillna("")
    made["reader"] = f"A{k}"
    made[["x0", "y0", "x1", "y1"]] = (40.0, 40.0, 80.0, 70.0)
    made["box_source"] = "expert"
    return made


def _predictions(rows: pd.DataFrame, boxed: pd.Series, k: int) -> pd.DataFrame:
    made = _keys(rows.index).drop(columns="patient_key")
    made["model"], made["reader"] = f"C{k}", f"A{k}"
    for name, value in zip(("x0", "y0", "x1", "y1"), (40.0, 40.0, 80.0, 70.0), strict=True):
        made[name] = np.where(boxed, value, np.nan)
    made["region"] = rows[f"chain{k}"].where(boxed, "").fillna("")
    made["grade"] = rows[f"called{k}"].where(boxed, "").fillna("")
    return made
