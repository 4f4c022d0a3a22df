"""One good result, composed once for all tests that only read or break copies of it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from stenosis_node.domain import AxialSeries, Document, StudyFindings
from stenosis_node.report import compose

from . import mr_study


@dataclass(frozen=True)
class Result:
    series: AxialSeries
    findings: StudyFindings
    documents: tuple[Document, ...]


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Three slabs with every outcome there is: cord, graded, isolated, not gradable, no canal, not readable."""
    outcomes = "ccA" + "ACA?" + "BD-x"
    series = mr_study.blinded(mr_study.classic(tmp_path_factory.mktemp("mr"), (3, 4, 4)), outcomes)
    findings = mr_study.findings(series, outcomes)
    return Result(series, findings, compose(findings, [series], mr_study.context(findings)))
