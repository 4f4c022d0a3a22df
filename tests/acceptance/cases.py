"""Every kind of series that is not graded, drawn and real, as studies to be sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread

from stenosis_node.domain import Decision, SeriesReason
from stenosis_node.series import find_files
from tests.conftest import SHARED_DATA
from tests.unit.series.builder import save, uid, write_series
from tests.unit.series.test_choose import REJECTED
from tests.unit.series.test_not_gradable import NOT_GRADABLE
from tests.unit.series.test_real_files import EXPECTED
from tests.unit.series.test_vendors import OTHERS, VENDORS, make

Expected = tuple[Decision, SeriesReason]


@dataclass
class Case:
    """Files of one study with one series, and what must be decided."""

    folder: Path
    study_uid: str
    expected: Expected


def drawn(root: Path) -> list[Case]:
    cases = []
    for decision, table in ((Decision.REJECTED, REJECTED), (Decision.NOT_GRADABLE, NOT_GRADABLE)):
        for name, (changes, reason, _) in table.items():
            folder, study_uid = root / f"{len(cases):03d}", uid("study", decision, name)
            series = f"{decision} {name}"
            write_series(folder, series, **{"StudyInstanceUID": study_uid, **changes})
            cases.append(Case(folder, study_uid, (decision, reason)))
    for vendor, is_made_by in VENDORS.items():
        for reason, change in OTHERS.items():
            dataset = make(is_made_by, change)
            dataset.StudyInstanceUID = uid("study", vendor, reason)
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid(vendor, reason)
            folder = root / f"{len(cases):03d}"
            save(folder, dataset)
            cases.append(Case(folder, dataset.StudyInstanceUID, (Decision.REJECTED, reason)))
    return cases


def real(root: Path) -> list[Case]:
    """The files of shared/data, each study once: copies that differ in compression have the same UIDs."""
    cases: dict[str, Case] = {}
    for part, (reason, *_) in EXPECTED.items():
        path = SHARED_DATA / part
        if path.exists():
            files = find_files(path) if path.is_dir() else [path]
            study_uid = str(dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
            folder = root / f"{len(cases):03d}"
            if study_uid not in cases:
                folder.mkdir(parents=True)
                for number, file in enumerate(files):
                    (folder / f"{number}.dcm").write_bytes(file.read_bytes())
                cases[study_uid] = Case(folder, study_uid, (Decision.REJECTED, reason))
    return list(cases.values())
