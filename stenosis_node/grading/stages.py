"""The three networks on a device: images in, boxes and scores out. What follows from a score is ``pipeline``'s.

Slices are batched only with slices of the same canvas size, so no slice is padded because of its neighbours. On the
processors tried, results do not depend on the size of the batch; a test holds them to a tolerance.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from stenosis_node.domain import Content, Grade, PixelBox
from stenosis_node.errors import ConfigError
from stenosis_node.grading.bundle import Networks
from stenosis_node.grading.manifest import ClassifyStage, GradeStage, Manifest
from stenosis_node.grading.networks import fold_batch_norm
from stenosis_node.grading.preprocess import Patch, UprightSlice, make_canvas

Precision = Literal["auto", "bf16", "fp32"]

_NATIVE_BF16 = ("amx_bf16", "avx512_bf16", "arm_bf16", "bf16")


@dataclass(frozen=True, slots=True)
class Located:
    """Best canal box of a slice."""

    box: PixelBox
    """In pixel edges of the upright image."""
    score: float


class Stages:
    """The networks, folded and cast for inference."""

    def __init__(
        self,
        networks: Networks,
        manifest: Manifest,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        boxes_per_slice: int = 1,
    ):
        """``boxes_per_slice`` is how many the detector gives at most; the node goes on with the best."""
        self._manifest = manifest
        self.device = choose_device(device)
        self.reduced = use_bf16(self.device, precision)
        self._locate = self._ready(networks.locate)
        cast(Any, self._locate).roi_heads.detections_per_img = boxes_per_slice
        self._classify = self._ready(networks.classify)
        self._grade = self._ready(networks.grade)

    def locate(self, images: Sequence[UprightSlice]) -> list[Located | None]:
        """Best box per image, None where the detector proposes nothing; scores are not thresholded here."""
        return [found[0] if found else None for found in self.locate_all(images)]

    def locate_all(self, images: Sequence[UprightSlice]) -> list[list[Located | None]]:
        """Every box per image from the best on; None stands for a box in the padding around the image."""
        canvases = [make_canvas(image, self._manifest.locate_input) for image in images]
        same_size: dict[torch.Size, list[int]] = defaultdict(list)
        for index, canvas in enumerate(canvases):
            same_size[canvas.pixels.shape].append(index)
        located: list[list[Located | None]] = [[] for _ in images]
        for indices in same_size.values():
            batch = [canvases[i].pixels.to(self.device).expand(3, -1, -1) for i in indices]
            with torch.inference_mode(), self._autocast():
                outputs = self._locate(batch)
            for index, output in zip(indices, outputs, strict=True):
                canvas, shape = canvases[index], images[index].shape
                for sides, score in zip(output["boxes"].tolist(), output["scores"].tolist(), strict=True):
                    box = _inside(canvas.to_image(tuple(sides)), shape)
                    located[index].append(None if box is None else Located(box, score))
        return located

    def content_scores(self, patches: Sequence[Patch]) -> list[dict[Content, float]]:
        """Score per content, summing to 1. A patch may hold more neighbours than the network sees."""
        classes = self._manifest.classify.classes
        temperature = self._manifest.calibration.classify_temperature
        rows = self._scores(self._classify, patches, self._manifest.classify, temperature)
        return [dict(zip(classes, row, strict=True)) for row in rows]

    def grade_scores(self, patches: Sequence[Patch]) -> list[dict[Grade, float]]:
        """Score per grade, summing to 1."""
        classes = self._manifest.grade.classes
        calibration = self._manifest.calibration
        rows = self._scores(
            self._grade, patches, self._manifest.grade, calibration.grade_temperature, calibration.grade_offsets
        )
        return [dict(zip(classes, row, strict=True)) for row in rows]

    def _scores(
        self,
        network: nn.Module,
        patches: Sequence[Patch],
        stage: ClassifyStage | GradeStage,
        temperature: float,
        offsets: Sequence[float] = (0.0,),
    ) -> list[list[float]]:
        if not patches:
            return []
        batch = torch.stack([_middle(patch.pixels, stage.channels) for patch in patches]).to(self.device)
        with torch.inference_mode(), self._autocast():
            logits: Tensor = network(batch).double()
            if stage.mirrored:
                logits = (logits + network(batch.flip(-1)).double()) / 2
        shift = torch.tensor(offsets, dtype=logits.dtype, device=logits.device)
        rows: list[list[float]] = (logits / temperature + shift).softmax(1).tolist()
        return rows

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.reduced)

    def _ready(self, network: nn.Module) -> nn.Module:
        """A copy for inference: BatchNorm folded, convolutions stored in the precision they compute in."""
        ready = deepcopy(network)
        fold_batch_norm(ready)
        if self.reduced:
            for module in ready.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(torch.bfloat16)
        return ready.to(self.device).requires_grad_(False)


def _middle(pixels: Tensor, channels: int) -> Tensor:
    """``[channels, P, P]`` around the slice itself. ValueError when the patch was made with fewer neighbours."""
    shaped = pixels if pixels.dim() == 3 else pixels[None]
    first = (len(shaped) - channels) // 2
    if first < 0:
        raise ValueError(f"the network sees {channels} slices, the patch holds {len(shaped)}")
    return shaped[first : first + channels]


def choose_device(device: str) -> torch.device:
    """``auto`` takes the first GPU torch can use. Raises ConfigError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"grading.device: {device!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"grading.device: {device} is not available; torch sees {torch.cuda.device_count()} GPUs")
    return chosen


def use_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether to compute convolutions in bfloat16: when asked, or in ``auto`` when the hardware does it natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in _NATIVE_BF16)


def _inside(box: PixelBox, shape: tuple[int, int]) -> PixelBox | None:
    """The part of a box within the image; None when less than a pixel is left (the rest lies in the padding)."""
    rows, columns = shape
    x0, x1 = max(box.x0, 0.0), min(box.x1, float(columns))
    y0, y1 = max(box.y0, 0.0), min(box.y1, float(rows))
    return PixelBox(x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
