from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score
from typer.testing import CliRunner

from training.cli import app
from training.evaluation.agreement import agree
from training.evaluation.matrices import agreement_scores, count_by_cluster, count_pairs, f1_of
from training.evaluation.resampling import Resamples, percentile_interval
from training.evaluation.significance import p_stuart_maxwell
from training.evaluation.vocabulary import GRADES

run = CliRunner()
KEYS = (
    "accuracy",
    "macro_f1",
    "f1",
    "kappa",
    "kappa_linear",
    "kappa_quadratic",
    "p_unpaired",
    "p_paired",
    "p_stuart_maxwell",
    "confusion",
)


def call(*arguments: str) -> dict:  # type: ignore[type-arg]
    done = run.invoke(app, ["agreement", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_stacked_scores_are_those_of_scikit_learn(random_codes) -> None:  # type: ignore[no-untyped-def]
    a, b, _ = random_codes
    matrix = count_pairs(a, b, 4)
    scores = agreement_scores(matrix)
    assert float(scores["accuracy"]) == pytest.approx(accuracy_score(a, b))
    assert float(scores["macro_f1"]) == pytest.approx(f1_score(a, b, average="macro"))
    assert f1_of(matrix) == pytest.approx(f1_score(a, b, average=None))
    for name, weights in (("kappa", None), ("kappa_linear", "linear"), ("kappa_quadratic", "quadratic")):
        assert float(scores[name]) == pytest.approx(cohen_kappa_score(a, b, weights=weights))


def test_a_class_that_nobody_used_has_no_f1_and_does_not_count() -> None:
    a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    found = agree(a, b, GRADES)
    assert found.f1["D"] is None
    assert found.macro_f1 == pytest.approx(f1_score(a, b, average="macro"))
    assert float(agreement_scores(count_pairs(a, b, 4))["macro_f1"]) == pytest.approx(found.macro_f1)


def test_resamples_are_those_of_whole_patients(random_codes) -> None:  # type: ignore[no-untyped-def]
    a, b, patients = random_codes
    drawn = Resamples.draw(20, 50, seed=1)
    assert (drawn.weights.sum(1) == 20).all()
    stack = drawn.sums(count_by_cluster(a, b, 4, patients, 20))
    repeat = np.repeat(np.arange(len(a)), drawn.weights[7].astype(int)[patients])
    assert (stack[7] == count_pairs(a[repeat], b[repeat], 4)).all()


def test_intervals_agree_with_those_of_scipy(random_codes) -> None:  # type: ignore[no-untyped-def]
    a, b, patients = random_codes
    found = agree(a, b, GRADES, cluster=patients, resamples=Resamples.draw(20, 4000, seed=1))
    cells = count_by_cluster(a, b, 4, patients, 20)
    theirs = stats.bootstrap(
        (np.arange(20),),
        lambda i: agreement_scores(cells[i].sum(0))["kappa_quadratic"],
        n_resamples=2000,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    assert found.intervals["kappa_quadratic"] == pytest.approx((theirs.low, theirs.high), abs=0.012)
    low, high = found.intervals["kappa_quadratic"]
    assert low is not None
    assert high is not None
    assert found.kappa_quadratic is not None
    assert low < found.kappa_quadratic < high


def test_an_interval_that_most_resamples_cannot_give_is_none() -> None:
    assert np.isnan(percentile_interval(np.array([0.5] * 8 + [np.nan] * 2))).all()


def test_stuart_maxwell_of_a_textbook_table() -> None:
    """Three classes by hand: margins differ by (6, 0, -6), covariance from the discordant pairs."""
    matrix = np.array([[20.0, 10, 5], [3, 30, 15], [0, 5, 15]])
    d = matrix.sum(1)[:2] - matrix.sum(0)[:2]
    s = np.array([[18.0, -13], [-13, 33]])
    expected = stats.chi2.sf(d @ np.linalg.inv(s) @ d, 2)
    assert p_stuart_maxwell(matrix) == pytest.approx(expected)
    b, c = 10, 25
    assert p_stuart_maxwell(np.array([[5.0, b], [c, 7]])) == pytest.approx(stats.chi2.sf((b - c) ** 2 / (b + c), 1))


def test_one_file_in_one_command(tmp_path: Path) -> None:
    file = write(
        tmp_path / "f.csv",
        "patient_key,r1,r2\n" + "p1,A,A\np1,A,B\np2,b,B\np2,C,C\np3,D,C\np3,,D\np3,A2,A\np4,other,A\n",
    )
    found = call(file, "--a", "r1", "--b", "r2", "--bootstrap", "200")
    assert set(KEYS) <= set(found)
    assert found["n"] == 6
    assert found["confusion"] == [[2, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert found["left_out"] == {"r1 is empty": 1, "r1 is other": 1}
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["cluster"] == "patient_key"
    text = run.invoke(app, ["agreement", file, "--a", "r1", "--b", "r2"]).stdout
    assert "left out: 1 where r1 is other" in text
    assert "kappa, quadratic weights" in text


def test_regions_and_codes(tmp_path: Path) -> None:
    regions = write(tmp_path / "r.csv", "a;b\nrootlet;cord\ncord;cord\nRootlet;rootlet\n")
    assert call(regions, "--a", "a", "--b", "b")["confusion"] == [[1, 1], [0, 1]]
    codes = write(tmp_path / "c.csv", "a,b\n0,0\n2,1\n1,1\n")
    found = call(codes, "--a", "a", "--b", "b")
    assert found["labels"] == ["0", "1", "2"]
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert found["cluster"] is None


def test_findings_and_a_readers_file_are_joined_by_the_slice(tmp_path: Path) -> None:
    findings = pd.DataFrame(
        {
            "study_uid": ["1.2", "1.2", "1.3", "1.3"],
            "series_uid": ["1.2.1", "1.2.1", "1.3.1", "1.3.1"],
            "sop_uid": ["1.2.1.1", "1.2.1.2", "1.3.1.1", "1.3.1.1"],
            "frame": ["", "", "1", "2"],
            "grade": ["A", "", "C", "D"],
        }
    )
    findings.to_csv(tmp_path / "findings.csv", index=False)
    reader = findings.assign(reader_grade=["A", "B", "C", "C"]).drop(columns="grade").iloc[[3, 0, 1]]
    reader.to_parquet(tmp_path / "reader.parquet")
    found = call(
        str(tmp_path / "findings.csv"),
        "--with",
        str(tmp_path / "reader.parquet"),
        "--a",
        "grade",
        "--b",
        "reader_grade",
    )
    assert found["n"] == 2
    assert found["confusion"][3][2] == 1
    assert found["left_out"] == {"grade is empty": 1}
    assert found["unmatched"] == [1, 0]
    assert found["cluster"] == "study_uid"


def test_the_same_column_name_in_both_files_and_a_key_of_ones_own(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", "id,grade\n1,A\n2,B\n")
    two = write(tmp_path / "two.csv", "id,grade\n2,A\n1,A\n")
    found = call(one, "--with", two, "--key", "id", "--a", "grade", "--b", "grade")
    assert found["confusion"][:2] == [[1, 0, 0, 0], [1, 0, 0, 0]]


def test_raters_who_never_differ(tmp_path: Path) -> None:
    found = call(write(tmp_path / "f.csv", "study_uid,a,b\n1,A,A\n1,A,A\n2,A,A\n"), "--a", "a", "--b", "b")
    assert found["accuracy"] == 1
    assert found["kappa"] is None
    assert found["p_paired"] is None
    assert found["p_stuart_maxwell"] is None
    assert found["intervals"]["kappa"] == [None, None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\nA,A\nB,E\n", "row 3, column b: 'E' is none of A, B, C, D"),
        ("a,b\n0,0\n1.5,1\n", "row 3, column a: '1.5'"),
        ("a,b\nA,rootlet\n", "column a holds grades, column b regions"),
        ("a,b\nA,\n", "column b: no row has a label"),
        ("a,c\nA,A\n", "no column 'b'; it has a, c"),
        ("a,b\nA,\n,B\n", "no row has a label in both a and b"),
        ("a,b\n", "has no rows"),
        ("", "the names of the columns, is empty"),
        ("a,b\nA,A\nB,B,B\n", "line 3"),
        ("a,a,b\nA,A,A\n", "two columns are called 'a'"),
        ("patient_key,a,b\np,A,A\n,B,B\n", "row 3, column patient_key: empty"),
    ],
)
def test_errors_name_the_row_and_the_column(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path / "f.csv", text)
    cluster = ("--cluster", "patient_key") if "patient_key" in text else ()
    done = run.invoke(app, ["agreement", file, "--a", "a", "--b", "b", *cluster])
    assert done.exit_code == 2
    assert words in done.output
    assert "Traceback" not in done.output


def test_errors_of_a_join(tmp_path: Path) -> None:
    one = write(tmp_path / "one.csv", "sop_uid,grade\n1,A\n1,B\n")
    two = write(tmp_path / "two.csv", "sop_uid,reader\n9,A\n")
    done = run.invoke(app, ["agreement", one, "--with", two, "--a", "grade", "--b", "reader"])
    assert "row 3, column sop_uid: the same sop_uid as row 2" in done.output
    done = run.invoke(app, ["agreement", two, "--with", two, "--a", "reader", "--b", "reader", "--key", "study"])
    assert "no column 'study'" in done.output
    three = write(tmp_path / "three.csv", "sop_uid,grade\n1,A\n")
    done = run.invoke(app, ["agreement", three, "--with", two, "--a", "grade", "--b", "reader"])
    assert "do both name the same slices?" in done.output
    done = run.invoke(app, ["agreement", str(tmp_path / "no.csv"), "--a", "a", "--b", "b"])
    assert "does not exist" in done.output
