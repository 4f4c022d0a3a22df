from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stenosis_node.grading.networks import (
    DetectorWidths,
    PatchClassifier,
    VggWidths,
    canal_detector,
    fold_batch_norm,
)

NARROW = DetectorWidths(pyramid_channels=16, box_head_features=32)


def _count(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classifier_is_the_vgg_of_the_paper(n_classes: int) -> None:
    network = PatchClassifier(VggWidths(), n_classes)
    assert _count(network, nn.Conv2d) == 10
    assert _count(network, nn.MaxPool2d) == 4
    assert _count(network, nn.AdaptiveAvgPool2d) == 1
    assert _count(network, nn.Linear) == 1
    assert max(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)) <= 256
    assert network(torch.rand(3, 1, 96, 96)).shape == (3, n_classes)
    with_context = PatchClassifier(VggWidths((4, 4, 8, 8, 8)), n_classes, channels=3)
    assert with_context(torch.rand(3, 3, 96, 96)).shape == (3, n_classes)


def test_detector_is_a_resnet50_of_the_planned_size() -> None:
    network = canal_detector(DetectorWidths())
    body = network.backbone.body
    assert [len(body[f"layer{i}"]) for i in (1, 2, 3, 4)] == [3, 4, 6, 3]
    parameters = sum(p.numel() for p in network.parameters())
    assert 27e6 < parameters < 29e6
    assert network.roi_heads.box_predictor.cls_score.out_features == 2
    assert all(p.requires_grad for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())


def test_detector_never_resizes() -> None:
    network = canal_detector(NARROW).eval()
    images, _ = network.transform([torch.rand(3, 96, 160)])
    assert images.tensors.shape == (1, 3, 96, 160)


def test_folding_batch_norm_changes_nothing() -> None:
    torch.manual_seed(1)
    network = PatchClassifier(VggWidths((4, 4, 8, 8, 8)), 4)
    for _ in range(3):
        network(torch.rand(4, 1, 96, 96))  # statistics away from their initial values
    network.eval()
    folded = copy.deepcopy(network)
    fold_batch_norm(folded)
    assert _count(folded, nn.BatchNorm2d) == 0
    patches = torch.rand(2, 1, 96, 96)
    torch.testing.assert_close(folded(patches), network(patches), rtol=1e-4, atol=1e-5)


def test_folding_reaches_every_batch_norm_of_the_detector() -> None:
    network = canal_detector(NARROW)
    fold_batch_norm(network)
    assert _count(network, nn.BatchNorm2d) == 0


def test_boxes_leave_reduced_precision() -> None:
    network = canal_detector(NARROW).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        output = network([torch.rand(3, 128, 128)])[0]
    assert output["boxes"].dtype is torch.float32
