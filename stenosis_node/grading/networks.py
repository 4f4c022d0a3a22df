"""The two architectures of the paper, at sizes that fit a bundle in git and a CPU.

Both are built without pretrained weights; a bundle fills them. Networks never resize: images arrive resampled
to millimetres (``preprocess``), so a pixel means the same length to every weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.models.resnet import resnet50
from torchvision.ops import MultiScaleRoIAlign

INPUT_MEAN, INPUT_STD = 0.3, 0.25
"""Of a lumbar slice after percentile normalisation to 0..1."""

_PYRAMID_LEVELS = 5  # strides 4, 8, 16, 32 and the pooled 64


@dataclass(frozen=True, slots=True)
class DetectorWidths:
    """Sizes of the Faster R-CNN that the paper leaves open."""

    pyramid_channels: int = 128
    """Output channels of the feature pyramid (torchvision's default is 256)."""
    box_head_features: int = 512
    """Of both layers of the box head (torchvision's default is 1024)."""
    anchor_px: tuple[float, ...] = (6.0, 10.0, 16.0)
    """Anchor sizes on the finest level; they double with each level."""
    anchor_ratios: tuple[float, ...] = (0.55, 0.9)
    """Height over width: a dural sac is wider than deep."""


@dataclass(frozen=True, slots=True)
class VggWidths:
    """Channels of the five blocks of two convolutions; four max-pools stand between the blocks."""

    blocks: tuple[int, int, int, int, int] = (32, 64, 128, 192, 256)


class _SameSizeTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Normalises and batches but never resizes (torchvision's own ``_skip_resize`` holds in training only)."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def batch_images(self, images: list[Tensor], size_divisible: int = 32) -> Tensor:
        batch: Tensor = super().batch_images(images, size_divisible)
        return batch.contiguous(memory_format=torch.channels_last)


class _Float32ProposalHead(RPNHead):  # type: ignore[misc]
    """Proposal head whose outputs leave reduced precision: bfloat16 boxes would be a millimetre coarse."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in deltas]


class _Float32BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """Box predictor that computes in float32 for the same reason."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            logits, deltas = super().forward(x.float())
        return logits, deltas


def canal_detector(widths: DetectorWidths) -> FasterRCNN:
    """Faster R-CNN on a ResNet-50 feature pyramid with one foreground class, the spinal canal.

    Takes a list of float32 ``[3, H, W]`` in 0..1 at the locate spacing; with H and W multiples of 32 nothing is
    padded inside. Returns at most one box per image, in pixel edges of its input. BatchNorm is trainable: there
    are no pretrained statistics to freeze.
    """
    channels = widths.pyramid_channels
    backbone = BackboneWithFPN(
        resnet50(weights=None, norm_layer=nn.BatchNorm2d),
        return_layers={f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)},
        in_channels_list=[256, 512, 1024, 2048],
        out_channels=channels,
    )
    sizes = tuple(tuple(size * 2**level for size in widths.anchor_px) for level in range(_PYRAMID_LEVELS))
    anchors = AnchorGenerator(sizes, (widths.anchor_ratios,) * _PYRAMID_LEVELS)
    detector = FasterRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=_Float32ProposalHead(channels, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=100,
        rpn_post_nms_top_n_test=32,
        rpn_fg_iou_thresh=0.6,
        rpn_batch_size_per_image=128,
        box_roi_pool=MultiScaleRoIAlign(featmap_names=["0", "1", "2", "3"], output_size=7, sampling_ratio=2),
        box_head=TwoMLPHead(channels * 7 * 7, widths.box_head_features),
        box_predictor=_Float32BoxPredictor(widths.box_head_features, 2),
        box_batch_size_per_image=64,
        box_score_thresh=0.01,
        box_detections_per_img=1,
    )
    detector.transform = _SameSizeTransform(1, 1, [INPUT_MEAN] * 3, [INPUT_STD] * 3)
    detector.to(memory_format=torch.channels_last)
    return detector


class PatchClassifier(nn.Module):
    """VGG of the paper: 10 convolutions, 4 max-pools, global average pooling, 1 fully connected layer.

    Takes float32 ``[N, channels, P, P]`` in 0..1 at the patch spacing, the channels being slices from head to foot, and
    returns float32 logits ``[N, classes]``. The last layer computes in float32 so that scores do not move in steps of
    bfloat16.
    """

    def __init__(self, widths: VggWidths, n_classes: int, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block, width in enumerate(widths.blocks):
            if block:
                layers.append(nn.MaxPool2d(2))
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(channels, n_classes)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits."""
        features = self.pool(self.features((patches - INPUT_MEAN) / INPUT_STD)).flatten(1)
        with torch.autocast(patches.device.type, enabled=False):
            logits: Tensor = self.classify(features.float())
        return logits


def fold_batch_norm(network: nn.Module) -> None:
    """Fold each BatchNorm that directly follows a convolution into it, in place; for inference only.

    Relies on children being declared in the order they are applied, as in torchvision's ResNet and in Sequential.
    """
    network.eval()
    for parent in network.modules():
        for (name, conv), (next_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, next_name, nn.Identity())
