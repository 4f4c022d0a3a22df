from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.training.evaluation.simulated import write_simulated
from training.evaluation.cohort import load_cohort
from training.evaluation.galleries import cases_section, grade_cases, read_picture, region_cases, worst_cases
from training.evaluation.stages import ChainScores

SAMPLE = Path(__file__).parents[4] / "sample_series" / "dicom" / "03-t2_tse_tra" / "0001.dcm"


def test_pictures_are_read_from_dicom_and_from_png_or_left_out(tmp_path: Path) -> None:
    pixels = read_picture(SAMPLE, None)
    assert pixels is not None
    assert pixels.ndim == 2
    assert pixels.max() > pixels.min()
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "p.png")
    picture = read_picture(tmp_path / "p.png", None)
    assert picture is not None
    assert picture.shape == (4, 6)
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    assert read_picture(tmp_path / "broken.dcm", None) is None
    assert read_picture(tmp_path / "absent.dcm", None) is None


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> ChainScores:
    labels, predictions = write_simulated(tmp_path_factory.mktemp("gallery"))
    return ChainScores(load_cohort(labels, [predictions], bootstrap=0), "two")


def test_cases_are_what_their_words_say(chain: ChainScores) -> None:
    for case in grade_cases(chain):
        reader, called = chain.truth.grade[case.slice], chain.found.called[case.slice]
        assert case.words == f"reader {reader}, chain {called}"
    for case in region_cases(chain):
        reader, called = chain.truth.region[case.slice], chain.found.region[case.slice]
        assert case.words == f"reader {reader}, chain {called}"


def test_the_worst_case_is_the_surest_of_the_furthest_off(chain: ChainScores) -> None:
    code = {grade: k for k, grade in enumerate("ABCD")}
    called = chain.found.called.loc[chain.graded]
    answered = called.index[(called != "").to_numpy()]
    gap = (chain.truth.grade.loc[answered].map(code) - called.loc[answered].map(code)).abs()
    sure = chain.found.loc[answered, ["p_A", "p_B", "p_C", "p_D"]].max(axis=1)
    assert worst_cases(chain)[0].slice == sure[gap == gap.max()].idxmax()
    assert any("no canal found" in case.words for case in worst_cases(chain))


def test_pictures_that_cannot_be_read_are_counted(chain: ChainScores, tmp_path: Path) -> None:
    paths = chain.truth.path.map(lambda name: tmp_path / name)
    none = cases_section(chain, paths)
    assert none.figures == []
    for cases in (region_cases(chain), grade_cases(chain), worst_cases(chain)):
        assert f"cases {len(cases)}, pictures that could be read 0." in none.text
    first = worst_cases(chain)[0].slice
    Image.fromarray(np.full((64, 64), 7, np.uint8)).save(tmp_path / "one.png")
    paths[first] = tmp_path / "one.png"
    section = cases_section(chain, paths)
    worst = next(figure for figure in section.figures if figure.name == "gallery-worst-two")
    assert f"1 of {len(worst_cases(chain))} cases" in worst.caption
    assert f"cases {len(worst_cases(chain))}, pictures that could be read 1." in section.text
