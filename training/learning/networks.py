"""What differs between the stages: the network, its loss, its score on validation slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassCohenKappa
from torchvision.ops import box_iou

from stenosis_node.errors import BundleError
from stenosis_node.grading.bundle import build_classifier, build_locate, load_weights
from stenosis_node.grading.manifest import ClassifyStage, GradeStage, LocateStage, sha256_of
from training.learning.errors import TrainingError
from training.learning.items import LocateItem, PatchItem
from training.recipes import Recipe, Stage, StageRecipe

_EARTH_MOVER_WEIGHT = 2.0


def stage_of(recipe: StageRecipe) -> LocateStage | ClassifyStage | GradeStage:
    """The stage as a bundle describes it."""
    match recipe.stage:
        case Stage.LOCATE:
            return LocateStage()
        case Stage.CLASSIFY:
            return ClassifyStage(blocks=recipe.blocks, context_slices=recipe.context_slices)
        case Stage.GRADE:
            return GradeStage(blocks=recipe.blocks, context_slices=recipe.context_slices)


def stages_of(recipe: Recipe) -> dict[str, Any]:
    """All stages by name, as a bundle describes them."""
    parts = {stage.value: stage_of(recipe.stage(stage)) for stage in Stage}
    mirrored = {"mirrored": recipe.mirrored}
    return {name: part if name == Stage.LOCATE else part.model_copy(update=mirrored) for name, part in parts.items()}


@dataclass(frozen=True, slots=True)
class Start:
    """Weights that training begins with; random where neither is given."""

    backbone: Path | None = None
    """ResNet-50 of the detector."""
    whole: Path | None = None
    """All of the network, as a bundle stores it."""

    def mark(self) -> str:
        """Names the weights; empty for random ones."""
        return " ".join(f"{file.stat().st_size} {sha256_of(file)}" for file in (self.backbone, self.whole) if file)


RANDOM: Final = Start()


def build(recipe: StageRecipe, start: Start = RANDOM) -> nn.Module:
    """The network. Raises TrainingError for weights to start with that are not of it."""
    stage = stage_of(recipe)
    network: nn.Module = build_locate(stage) if isinstance(stage, LocateStage) else build_classifier(stage)
    if start.backbone is not None:
        _load_backbone(network, start.backbone)
    if start.whole is not None:
        try:
            load_weights(network, start.whole)
        except BundleError as error:
            raise TrainingError(f"{recipe.stage} cannot start from these weights: {error}") from error
    return network


def collate(items: Sequence[Any]) -> Any:
    """A batch: padded canvases with boxes, or patches with targets."""
    if isinstance(items[0], LocateItem):
        rows, columns = (max(item.image.shape[axis] for item in items) for axis in (0, 1))
        images = [
            F.pad(item.image, (0, columns - item.image.shape[1], 0, rows - item.image.shape[0])) for item in items
        ]
        return torch.stack(images), [item.boxes for item in items]
    patches: Sequence[PatchItem] = items
    return torch.stack([item.patch for item in patches]), torch.stack([item.target for item in patches])


def loss_of(network: Any, batch: Any, recipe: StageRecipe, device: torch.device) -> Tensor:
    """Scalar to minimise."""
    if recipe.stage is Stage.LOCATE:
        return _detection_loss(network, batch, device)
    patches, targets = batch
    logits: Tensor = network(patches.to(device)).float()
    return patch_loss(logits, targets.to(device), recipe)


def patch_loss(logits: Tensor, targets: Tensor, recipe: StageRecipe) -> Tensor:
    """Of ``[N, classes]`` logits and shares.

    ``binary-cross-entropy`` is of the difference of the two logits, which is what softmax makes of them. ``ordinal``
    adds the squared earth mover's distance (Hou et al. 2016, arXiv 1611.05916) to the cross-entropy: a grade two off
    costs more than one off.
    """
    smooth = recipe.label_smoothing
    targets = targets * (1 - smooth) + smooth / targets.shape[1]
    match recipe.loss:
        case "binary-cross-entropy":
            return F.binary_cross_entropy_with_logits(logits[:, 1] - logits[:, 0], targets[:, 1])
        case "cross-entropy":
            return F.cross_entropy(logits, targets)
        case "ordinal":
            apart = (logits.softmax(1) - targets).cumsum(1).square().sum(1).mean()
            return F.cross_entropy(logits, targets) + _EARTH_MOVER_WEIGHT * apart
        case "detection":
            raise ValueError("a loss of boxes, not of patches")


def score_of(network: nn.Module, batches: Iterable[Any], recipe: StageRecipe, device: torch.device) -> float:
    """Score on validation batches, higher is better: mean IoU with the best box (a miss is 0), accuracy, or quadratic
    kappa."""
    if recipe.score == "iou":
        overlaps = [one for batch in batches for one in _overlaps(network, batch, device)]
        return sum(overlaps) / len(overlaps)
    classes = 2 if recipe.stage is Stage.CLASSIFY else 4
    metric: Any = (
        MulticlassAccuracy(classes, average="micro")
        if recipe.score == "accuracy"
        else MulticlassCohenKappa(classes, weights="quadratic")
    )
    for patches, targets in batches:
        metric.update(network(patches.to(device)).float().argmax(1).cpu(), targets.argmax(1))
    return float(metric.compute())


def _detection_loss(network: Any, batch: tuple[Tensor, list[Tensor]], device: torch.device) -> Tensor:
    images, boxes = batch
    targets = [{"boxes": b.to(device), "labels": torch.ones(len(b), dtype=torch.int64, device=device)} for b in boxes]
    losses: dict[str, Tensor] = network([image.to(device).expand(3, -1, -1) for image in images], targets)
    return torch.stack(list(losses.values())).sum()


def _overlaps(network: Any, batch: tuple[Tensor, list[Tensor]], device: torch.device) -> list[float]:
    images, boxes = batch
    found = network([image.to(device).expand(3, -1, -1) for image in images])
    return [
        float(box_iou(one["boxes"][:1].cpu(), truth).max()) if len(one["boxes"]) else 0.0
        for one, truth in zip(found, boxes, strict=True)
    ]


def _load_backbone(network: Any, path: Path) -> None:
    """Fill the ResNet-50 from a state dict (safetensors, or a torch file of tensors alone; code in it is never run)."""
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise TrainingError(f"{path} cannot be read as ResNet-50 weights ({type(error).__name__})") from error
    except Exception as error:  # what weights_only refuses derives from pickle's own error
        raise TrainingError(f"{path} holds more than tensors; save the weights as safetensors") from error
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    body = network.backbone.body
    wanted = {name for name in body.state_dict() if not name.endswith("num_batches_tracked")}
    absent = wanted - set(kept)
    if absent or any(kept[name].shape != body.state_dict()[name].shape for name in wanted):
        raise TrainingError(
            f"{path} is no ResNet-50 of torchvision: {len(absent)} of {len(wanted)} tensors are missing"
        )
    body.load_state_dict(kept, strict=False)
