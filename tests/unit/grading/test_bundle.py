from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stenosis_node.errors import BundleError
from stenosis_node.grading.bundle import (
    SCALE_SUFFIX,
    dequantise,
    load_weights,
    quantise,
    read_bundle,
    save_weights,
)
from stenosis_node.grading.manifest import sha256_of
from stenosis_node.grading.networks import PatchClassifier, VggWidths

SMALL = VggWidths((4, 4, 4, 4, 4))


@pytest.mark.parametrize("shape", [(7, 3, 3, 3), (5, 11), (1, 1, 1, 1)])
def test_int8_error_is_at_most_half_a_step(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    values, scale = quantise(weight)
    assert values.dtype is torch.int8
    error = (dequantise(values, scale) - weight).abs().flatten(1).amax(1)
    assert bool((error <= scale / 2 * 1.001).all())
    largest = weight.abs().flatten(1).amax(1)
    torch.testing.assert_close(dequantise(values, scale).abs().flatten(1).amax(1), largest, rtol=1e-5, atol=0)


def test_a_channel_of_zeros_stays_zero() -> None:
    values, scale = quantise(torch.zeros(2, 3))
    assert dequantise(values, scale).abs().max() == 0


def test_weights_round_trip_through_a_file(tmp_path: Path) -> None:
    network, other = PatchClassifier(SMALL, 4), PatchClassifier(SMALL, 4)
    network(torch.rand(4, 1, 96, 96))
    save_weights(network, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    for name, tensor in network.state_dict().items():
        if tensor.dim() < 2 and not name.endswith("num_batches_tracked"):
            assert torch.equal(other.state_dict()[name], tensor), name
    once = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    save_weights(other, tmp_path / "w2.safetensors")
    load_weights(other, tmp_path / "w2.safetensors")
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, once[name], rtol=1e-6, atol=1e-7)


def _break(path: Path, *, remove: str = "", add: str = "", shape_of: str = "") -> None:
    tensors = load_file(path)
    tensors.pop(remove, None)
    if add:
        tensors[add] = torch.zeros(1)
    if shape_of:
        tensors[shape_of] = tensors[shape_of][:, :1].contiguous()
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"remove": "features.0.weight"}, "tensor features.0.weight is missing"),
        ({"remove": "features.0.weight" + SCALE_SUFFIX}, "tensor features.0.weight has no scale"),
        ({"add": "head.weight"}, "tensor head.weight does not belong"),
        ({"shape_of": "classify.weight"}, r"tensor classify.weight has shape \[4, 1\], the network needs \[4, 4\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_tensor(tmp_path: Path, damage: dict[str, str], message: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(PatchClassifier(SMALL, 4), path)
    _break(path, **damage)
    with pytest.raises(BundleError, match=message):
        load_weights(PatchClassifier(SMALL, 4), path)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"pickle")
    with pytest.raises(BundleError, match="no safetensors file"):
        load_weights(PatchClassifier(SMALL, 4), path)


def test_a_manifest_of_other_widths_is_refused(untrained_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(untrained_bundle, tmp_path / "bundle"))
    tree = json.loads((bundle / "manifest.json").read_text())
    tree["grade"]["blocks"] = [32, 64, 128, 192, 128]
    (bundle / "manifest.json").write_text(json.dumps(tree))
    with pytest.raises(BundleError, match=r"grade\.safetensors: tensor .* has shape"):
        read_bundle(bundle)


def test_the_bundle_is_small_enough_for_git_and_complete(untrained_bundle: Path) -> None:
    files = sorted(untrained_bundle.iterdir())
    assert [f.name for f in files] == [
        "MODEL_CARD.md",
        "classify.safetensors",
        "grade.safetensors",
        "locate.safetensors",
        "manifest.json",
    ]
    assert sum(f.stat().st_size for f in files) < 40e6
    digests = json.loads((untrained_bundle / "manifest.json").read_text())["files"]
    assert digests == {f.name: sha256_of(f) for f in files if f.name != "manifest.json"}
