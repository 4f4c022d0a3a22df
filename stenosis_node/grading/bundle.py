"""Weights on disk: safetensors, matrices as int8 per output channel, everything else float32.

int8 is storage only. Each output channel has its own scale, so folding BatchNorm (a factor per output channel) loses
nothing on top, and the largest weight of a channel is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from stenosis_node.errors import BundleError
from stenosis_node.grading.manifest import (
    MANIFEST_NAME,
    ClassifyStage,
    GradeStage,
    LocateStage,
    Manifest,
    read_manifest,
    sha256_of,
)
from stenosis_node.grading.networks import DetectorWidths, PatchClassifier, VggWidths, canal_detector

SCALE_SUFFIX = "#scale"
CARD_NAME = "MODEL_CARD.md"


@dataclass(frozen=True, slots=True)
class Networks:
    """The three stages."""

    locate: FasterRCNN
    classify: PatchClassifier
    grade: PatchClassifier


def build_locate(stage: LocateStage) -> FasterRCNN:
    """The detector a manifest describes, with random weights."""
    return canal_detector(
        DetectorWidths(stage.pyramid_channels, stage.box_head_features, stage.anchor_px, stage.anchor_ratios)
    )


def build_classifier(stage: ClassifyStage | GradeStage) -> PatchClassifier:
    """The classifier a manifest describes, with random weights."""
    return PatchClassifier(VggWidths(stage.blocks), len(stage.classes), stage.channels)


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and float32 scale per output channel (first axis) of a weight; error at most half a scale."""
    flat = weight.float().flatten(1)
    scale = flat.abs().amax(1) / 127
    steps = flat / torch.where(scale > 0, scale, 1.0)[:, None]
    return steps.round().to(torch.int8).view(weight.shape), scale


def dequantise(values: Tensor, scale: Tensor) -> Tensor:
    """Inverse of :func:`quantise`."""
    return values.float() * scale.view(-1, *[1] * (values.dim() - 1))


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's state, matrices as int8."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.dim() >= 2:
            values, tensors[name + SCALE_SUFFIX] = quantise(tensor)
            tensors[name] = values.contiguous()
        else:
            tensors[name] = tensor.float().contiguous()
    save_file(tensors, path)


def load_weights(network: nn.Module, path: Path) -> None:
    """Fill a network from a file of :func:`save_weights`. Raises BundleError naming the tensor that does not fit."""
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is no safetensors file: {error}") from error
    wanted = {name: t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    scales = {name for name in stored if name.endswith(SCALE_SUFFIX)}
    if unknown := sorted(stored.keys() - wanted.keys() - scales):
        raise BundleError(f"{path}: tensor {unknown[0]} does not belong to this network")
    state = {name: _restore(name, tensor.shape, stored, path) for name, tensor in wanted.items()}
    network.load_state_dict(state, strict=False)


def _restore(name: str, shape: torch.Size, stored: Mapping[str, Tensor], path: Path) -> Tensor:
    if name not in stored:
        raise BundleError(f"{path}: tensor {name} is missing")
    values = stored[name]
    if values.shape != shape:
        raise BundleError(f"{path}: tensor {name} has shape {list(values.shape)}, the network needs {list(shape)}")
    if values.dtype != torch.int8:
        return values.float()
    scale = stored.get(name + SCALE_SUFFIX)
    if scale is None or scale.shape != shape[:1]:
        raise BundleError(f"{path}: tensor {name} has no scale per output channel")
    return dequantise(values, scale)


def write_bundle(folder: Path, networks: Networks, manifest: Manifest, card: str) -> Manifest:
    """Write weights, card and manifest into ``folder``; returns the manifest as stored, with the digests filled in."""
    folder.mkdir(parents=True, exist_ok=True)
    for network, stage in (
        (networks.locate, manifest.locate),
        (networks.classify, manifest.classify),
        (networks.grade, manifest.grade),
    ):
        save_weights(network, folder / stage.file)
    (folder / CARD_NAME).write_text(card, encoding="utf-8")
    names = (manifest.locate.file, manifest.classify.file, manifest.grade.file, CARD_NAME)
    stored = manifest.model_copy(update={"files": {name: sha256_of(folder / name) for name in names}})
    (folder / MANIFEST_NAME).write_bytes(stored.to_bytes())
    return stored


def read_bundle(folder: Path, *, expected_digest: str | None = None) -> tuple[Manifest, Networks]:
    """Verified manifest and networks with their weights. Raises BundleError when anything does not fit."""
    manifest = read_manifest(folder, expected_digest=expected_digest)
    networks = Networks(
        build_locate(manifest.locate), build_classifier(manifest.classify), build_classifier(manifest.grade)
    )
    load_weights(networks.locate, folder / manifest.locate.file)
    load_weights(networks.classify, folder / manifest.classify.file)
    load_weights(networks.grade, folder / manifest.grade.file)
    return manifest, networks
