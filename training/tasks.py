"""What differs between the stages in training: network, slices, loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from stenosis_node.grading.bundle import build_classifier, build_locate
from stenosis_node.grading.manifest import ClassifyStage, GradeStage, LocateInput, LocateStage, PatchInput
from training.datasets import ContentPatches, GradePatches, LocateItem, LocateSlices, PatchItem
from training.recipes import Stage


class Task(Protocol):
    """One stage to train."""

    def network(self) -> nn.Module:
        """With random weights."""

    def dataset(self, first_seed: int, length: int) -> Dataset[Any]:
        """Slices drawn from consecutive seeds."""

    def collate(self, items: Sequence[Any]) -> Any:
        """A batch."""

    def loss(self, network: Any, batch: Any, device: torch.device) -> Tensor:
        """Scalar to minimise."""


@dataclass(frozen=True, slots=True)
class LocateTask:
    """The four losses of Faster R-CNN, summed."""

    stage: LocateStage
    input: LocateInput

    def network(self) -> nn.Module:
        network: nn.Module = build_locate(self.stage)
        return network

    def dataset(self, first_seed: int, length: int) -> Dataset[Any]:
        return LocateSlices(self.input, first_seed=first_seed, length=length)

    def collate(self, items: Sequence[LocateItem]) -> tuple[Tensor, list[Tensor]]:
        return torch.stack([item.image for item in items]), [item.boxes for item in items]

    def loss(self, network: Any, batch: tuple[Tensor, list[Tensor]], device: torch.device) -> Tensor:
        images, boxes = batch
        targets = [
            {"boxes": b.to(device), "labels": torch.ones(len(b), dtype=torch.int64, device=device)} for b in boxes
        ]
        losses: dict[str, Tensor] = network([image.to(device).expand(3, -1, -1) for image in images], targets)
        return torch.stack(list(losses.values())).sum()


@dataclass(frozen=True, slots=True)
class _PatchTask:
    """Cross entropy over patches."""

    stage: ClassifyStage | GradeStage
    input: PatchInput

    def network(self) -> nn.Module:
        return build_classifier(self.stage)

    def dataset(self, first_seed: int, length: int) -> Dataset[Any]:
        kind = ContentPatches if isinstance(self.stage, ClassifyStage) else GradePatches
        return kind(self.input, first_seed=first_seed, length=length)

    def collate(self, views: Sequence[list[PatchItem]]) -> tuple[Tensor, Tensor]:
        items = [item for pair in views for item in pair]
        return torch.stack([item.patch for item in items])[:, None], torch.tensor([item.label for item in items])

    def loss(self, network: Any, batch: tuple[Tensor, Tensor], device: torch.device) -> Tensor:
        patches, labels = batch
        return F.cross_entropy(network(patches.to(device)).float(), labels.to(device), label_smoothing=0.05)


def task_of(stage: Stage) -> Task:
    """The task of a stage at the sizes the bundle uses."""
    match stage:
        case Stage.LOCATE:
            return LocateTask(LocateStage(), LocateInput())
        case Stage.CLASSIFY:
            return _PatchTask(ClassifyStage(), PatchInput())
        case Stage.GRADE:
            return _PatchTask(GradeStage(), PatchInput())
