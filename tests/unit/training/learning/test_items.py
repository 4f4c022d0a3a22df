from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.training.learning.conftest import Phantoms
from training.learning.errors import TrainingError
from training.learning.items import CROP_PX, Draw, Items, LocateItem, PatchItem, vary
from training.learning.labels import LabelledSlice, labelled
from training.learning.networks import patch_loss
from training.learning.sampling import class_of, epoch_draws, need_every_class, usable
from training.learning.splitting import set_aside
from training.recipes import DEFAULT, WON2025, Augmentation, Balance, Stage


@pytest.fixture(scope="module")
def slices(phantoms: Phantoms) -> list[LabelledSlice]:
    return labelled(phantoms.manifest, phantoms.store, "truth")


def _patch(phantoms: Phantoms, one: LabelledSlice, seed: int | None, **straying: float) -> PatchItem:
    recipe = replace(DEFAULT.grade, augmentation=Augmentation(**straying))
    item = Items(phantoms.store, recipe, [Draw(one, seed)])[0]
    assert isinstance(item, PatchItem)
    return item


def test_an_item_is_decided_by_its_seed(phantoms: Phantoms, slices: list[LabelledSlice]) -> None:
    one = usable(slices, Stage.GRADE)[0]
    for recipe in (DEFAULT.locate, DEFAULT.grade):
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        items = Items(phantoms.store, recipe, [Draw(one, 5), Draw(one, 5), Draw(one, 6)])
        assert torch.equal(before, torch.random.get_rng_state())
        a, b, c = (
            (item.image if isinstance(item, LocateItem) else item.patch) for item in (items[0], items[1], items[2])
        )
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_crops_hold_the_canal_where_the_box_says(phantoms: Phantoms, slices: list[LabelledSlice]) -> None:
    """A mirrored, scaled crop and its box show the same pixels as the canvas and its box, up to resampling."""
    one = max(usable(slices, Stage.LOCATE), key=lambda s: s.box.x1 - s.box.x0 if s.box else 0)
    recipe = replace(DEFAULT.locate, augmentation=Augmentation(flip=0.5, scale=0.15))
    whole = Items(phantoms.store, recipe, [Draw(one, None)])[0]
    assert isinstance(whole, LocateItem)
    x0, y0, x1, y1 = (round(v) for v in whole.boxes[0].tolist())
    inside = float(whole.image[y0:y1, x0:x1].mean())
    held = 0
    crops = Items(phantoms.store, recipe, [Draw(one, seed) for seed in range(30)])
    for item in map(crops.__getitem__, range(30)):
        assert isinstance(item, LocateItem)
        assert item.image.shape == (CROP_PX, CROP_PX)
        if len(item.boxes):
            x0, y0, x1, y1 = (round(v) for v in item.boxes[0].tolist())
            assert float(item.image[y0:y1, x0:x1].mean()) == pytest.approx(inside, abs=0.05)
            held += 1
    assert held > 20


def test_straying_does_what_it_says(phantoms: Phantoms, slices: list[LabelledSlice]) -> None:
    one = usable(slices, Stage.GRADE)[0]
    plain = _patch(phantoms, one, None).patch
    assert torch.equal(_patch(phantoms, one, 1).patch, plain), "nothing asked, nothing done"
    assert torch.equal(_patch(phantoms, one, 1, flip=1.0).patch, plain.flip(-1))
    noisy = _patch(phantoms, one, 1, noise=0.2).patch
    assert float(noisy.min()) >= 0
    assert float(noisy.max()) <= 1
    assert not torch.equal(noisy, plain)
    darker = [float(_patch(phantoms, one, seed, gamma=0.5).patch.mean()) for seed in range(8)]
    assert min(darker) < float(plain.mean()) < max(darker)


def test_contrast_is_shared_by_the_channels() -> None:
    grey = torch.full((3, 4, 4), 0.5)
    assert len(set(vary(grey, Augmentation(gamma=0.4)).flatten().tolist())) == 1


def test_soft_labels_are_shares_and_hard_ones_are_not(phantoms: Phantoms) -> None:
    slices = usable(labelled(phantoms.manifest, phantoms.store, "consensus"), Stage.GRADE)
    split = next(one for one in slices if one.grades is not None and one.grades.max() < 1)
    for soft in (True, False):
        item = Items(phantoms.store, replace(DEFAULT.grade, soft_labels=soft), [Draw(split, None)])[0]
        assert isinstance(item, PatchItem)
        assert (float(item.target.max()) == 1) is not soft
        assert float(item.target.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("balance", "shares"),
    [("balanced", [0.5, 0.5]), ("sqrt", [0.75, 0.25]), ("none", [0.9, 0.1]), ("undersample", [0.5, 0.5])],
)
def test_classes_have_their_share_of_every_batch(
    phantoms: Phantoms, slices: list[LabelledSlice], balance: Balance, shares: list[float]
) -> None:
    ready = usable(slices, Stage.CLASSIFY)
    by_class = {c: next(one for one in ready if class_of(one, Stage.CLASSIFY) == c) for c in (0, 1)}
    made = [by_class[0]] * 900 + [by_class[1]] * 100
    recipe = replace(DEFAULT.classify, balance=balance, slices_per_epoch=800)
    draws = epoch_draws(made, recipe, seed=1, epoch=0)
    assert len(draws) == (200 if balance == "undersample" else 800)
    classes = [int(draw.slice.region or 0) for draw in draws]
    assert np.bincount(classes) / len(classes) == pytest.approx(shares, abs=0.04)
    if balance == "balanced":
        batches = [Counter(classes[k : k + 32]) for k in range(0, 800, 32)]
        assert all(12 <= batch[1] <= 20 for batch in batches)


def test_every_slice_has_its_turn_before_any_comes_again(slices: list[LabelledSlice]) -> None:
    recipe = replace(WON2025.grade, balance="none")
    ready = usable(slices, Stage.GRADE)
    draws = epoch_draws(ready, recipe, seed=1, epoch=0)
    assert {id(draw.slice) for draw in draws} == {id(one) for one in ready}
    other = epoch_draws(ready, recipe, seed=1, epoch=1)
    assert [draw.slice for draw in draws] != [draw.slice for draw in other]
    assert draws == epoch_draws(ready, recipe, seed=1, epoch=0)


def test_a_class_nobody_labelled_is_named(slices: list[LabelledSlice]) -> None:
    ready = [one for one in usable(slices, Stage.GRADE) if one.grade != 3]
    with pytest.raises(TrainingError, match="grade: the training part of fold 3 has no slice labelled D"):
        need_every_class(ready, Stage.GRADE, "the training part of fold 3")
    with pytest.raises(TrainingError, match="has no slice with a box"):
        need_every_class([], Stage.LOCATE, "the validation part")


def test_patients_set_aside_are_whole(slices: list[LabelledSlice]) -> None:
    named = [replace(one, group=f"g{index % 40}") for index, one in enumerate(slices)]
    train, validation = set_aside(named, 0.2, 0)
    assert len(train) + len(validation) == len(named)
    assert not {one.group for one in train} & {one.group for one in validation}
    assert 1 <= len({one.group for one in validation}) <= 16


def test_a_grade_two_off_costs_more_than_one_off() -> None:
    truth = torch.tensor([[1.0, 0, 0, 0]])
    near, far = torch.tensor([[0.0, 4, 0, 0]]), torch.tensor([[0.0, 0, 0, 4]])
    cross = replace(DEFAULT.grade, loss="cross-entropy")
    assert patch_loss(near, truth, cross) == pytest.approx(float(patch_loss(far, truth, cross)))
    assert patch_loss(far, truth, DEFAULT.grade) > patch_loss(near, truth, DEFAULT.grade) + 0.5


def test_binary_cross_entropy_is_that_of_softmax() -> None:
    logits, target = torch.tensor([[0.3, 1.7], [2.0, -1.0]]), torch.tensor([[0.0, 1.0], [0.25, 0.75]])
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert patch_loss(logits, target, DEFAULT.classify) == pytest.approx(float(expected), rel=1e-5)
