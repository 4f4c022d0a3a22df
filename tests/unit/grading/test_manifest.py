from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stenosis_node.domain import BundleStatus, OperatingPoint, ReaderAgreement
from stenosis_node.errors import BundleError
from stenosis_node.grading.manifest import Calibration, DecisionRules, Manifest, read_manifest


@pytest.fixture
def bundle(untrained_bundle: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(untrained_bundle, tmp_path / "bundle"))


def _change(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / "manifest.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def test_a_whole_bundle_is_read(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    identity = manifest.identity()
    assert identity.status is BundleStatus.DEMONSTRATION
    assert identity.digest == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert manifest.patch_input.width_mm / 2 >= 9 + 8  # half the deepest sac, and 8 mm of fat behind it


def test_the_expected_digest_is_checked(bundle: Path) -> None:
    digest = read_manifest(bundle).digest()
    assert read_manifest(bundle, expected_digest=digest.upper()).digest() == digest
    with pytest.raises(BundleError, match="the configuration asks for"):
        read_manifest(bundle, expected_digest="0" * 64)


def test_any_change_changes_the_digest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    raised = manifest.model_copy(update={"thresholds": manifest.thresholds.model_copy(update={"box_score": 0.123})})
    assert raised.digest() != manifest.digest()
    assert Manifest.model_validate_json(raised.to_bytes()) == raised


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(surprise=1), "surprise: Extra inputs"),
        (lambda t: t["locate_input"].update(spacing=1), "locate_input.spacing: Extra inputs"),
        (lambda t: t.pop("status"), "status: Field required"),
        (lambda t: t.update(status="approved"), "status: "),
        (lambda t: t["thresholds"].update(box_score=1.5), "thresholds.box_score: "),
        (lambda t: t["locate_input"].update(spacing_mm=-1), "locate_input.spacing_mm: "),
        (lambda t: t["grade"].update(classes=["B", "A", "C", "D"]), "grade.classes"),
        (lambda t: t["classify"].update(architecture="resnet"), "classify.architecture: "),
        (lambda t: t.update(schema_version=2), "schema_version: "),
        (lambda t: t["files"].pop("grade.safetensors"), "files: no digest for grade.safetensors"),
        (lambda t: t["files"].update({"../grade.safetensors": "0" * 64}), "files"),
        (lambda t: t["files"].update({"grade.safetensors": "abc"}), "files.grade.safetensors: "),
        (lambda t: t["files"].update({"grade.safetensors": "0" * 64}), "was changed: its sha256 is"),
        (lambda t: t["files"].update({"more.safetensors": "0" * 64}), "more.safetensors is missing"),
    ],
)
def test_a_broken_manifest_is_refused_with_the_key(
    bundle: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _change(bundle, change)
    with pytest.raises(BundleError, match=r"manifest\.json|safetensors") as refused:
        read_manifest(bundle)
    assert message in str(refused.value)


def test_a_changed_byte_in_the_weights_is_refused(bundle: Path) -> None:
    path = bundle / "grade.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"grade\.safetensors was changed"):
        read_manifest(bundle)


def test_missing_weights_are_named(bundle: Path) -> None:
    (bundle / "locate.safetensors").unlink()
    with pytest.raises(BundleError, match=r"locate\.safetensors is missing"):
        read_manifest(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe"])
def test_a_manifest_that_is_no_json_is_refused(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match="is not valid"):
        read_manifest(bundle)


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no weights bundle"):
        read_manifest(tmp_path)
    with pytest.raises(BundleError, match="is no weights bundle"):
        read_manifest(tmp_path / "absent")


def test_reading_a_manifest_does_not_import_torch() -> None:
    code = "import sys, stenosis_node.grading.manifest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


POINT = {
    "positive": "grade C or D",
    "sensitivity": 0.93,
    "specificity": 0.88,
    "studies": 200,
    "source": "simulated studies",
}
READERS = {"kind": "simulated readers", "number": 3, "measure": "weighted kappa", "value": 0.82}


def test_what_reports_print_of_the_model_card(bundle: Path) -> None:
    assert read_manifest(bundle).identity().operating_point is None  # never measured: nothing is printed
    _change(bundle, lambda t: t["metrics"].update(study_level=POINT, readers=READERS))
    identity = read_manifest(bundle).identity()
    assert identity.operating_point == OperatingPoint(
        "worst-image", "grade C or D", 0.93, 0.88, 200, "simulated studies"
    )
    assert identity.agreement == ReaderAgreement("simulated readers", 3, "weighted kappa", 0.82)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"study_level": POINT | {"sensitivity": 93}}, "metrics.study_level.sensitivity: "),
        ({"study_level": POINT | {"rule": "mean"}}, "metrics.study_level.rule: "),
        ({"readers": READERS | {"number": 0}}, "metrics.readers.number: "),
        ({"readers": {k: v for k, v in READERS.items() if k != "kind"}}, "metrics.readers.kind: Field required"),
        ({"readers": READERS | {"kind": "radiologists"}}, "readers of a demonstration bundle must be called simulated"),
    ],
)
def test_figures_that_reports_print_are_whole(bundle: Path, metrics: dict[str, Any], message: str) -> None:
    _change(bundle, lambda t: t["metrics"].update(metrics))
    with pytest.raises(BundleError, match=message):
        read_manifest(bundle)


def test_what_came_later_is_not_in_the_manifest_of_those_who_do_not_use_it() -> None:
    shipped = Path(__file__).parents[3] / "deploy" / "bundles" / "phantom-1"
    stored = (shipped / "manifest.json").read_bytes()
    manifest = Manifest.model_validate_json(stored)
    assert manifest.to_bytes() == stored
    used = manifest.model_copy(
        update={
            "decision": DecisionRules(monotone_switch=True, severe_threshold=0.25),
            "calibration": Calibration(grade_temperature=1.5, grade_offsets=(0.0, -0.3, 0.1, 0.0)),
            "grade": manifest.grade.model_copy(update={"context_slices": 1}),
        }
    )
    assert Manifest.model_validate_json(used.to_bytes()) == used
    assert used.identity().severe_threshold == 0.25
    assert used.digest() != manifest.digest()
