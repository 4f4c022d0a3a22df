"""Every value a training run is decided by, frozen, with where it comes from. A run stores its recipe.

``won2025`` holds what Won et al. 2025 give; what they leave open is chosen here and marked so in ``sources``.
``won2025-transfer`` is their second question: grading learnt on one level. ``default`` is ours;
``benchmarks/ablation.py`` measures what each difference buys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal, get_args, get_type_hints

Optimizer = Literal["adam", "adamw"]
Schedule = Literal["plateau", "cosine"]
Loss = Literal["detection", "cross-entropy", "binary-cross-entropy", "ordinal"]
Balance = Literal["none", "balanced", "sqrt", "undersample"]
Score = Literal["iou", "accuracy", "kappa"]
Chains = Literal["per-reader", "consensus"]
GradeOn = Literal["predicted", "labelled"]


class RecipeError(Exception):
    """A recipe, or a change to one, that makes no sense; the text says which values are possible."""


class Stage(StrEnum):
    """The three networks, in the order of the chain."""

    LOCATE = "locate"
    CLASSIFY = "classify"
    GRADE = "grade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far a training slice may stray from the stored one; uniform unless said otherwise."""

    rotation_deg: float = 0.0
    """Either way."""
    scale: float = 0.0
    """0.1: from 0.9 to 1.1 times."""
    translate_mm: float = 0.0
    """Either way, per axis."""
    flip: float = 0.0
    """Share mirrored left to right. Never top to bottom: rootlets sink to the back of a patient who lies on it."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, in units of the window (0 to 1)."""
    gamma: float = 0.0
    """Contrast: pixels to the power of exp(u), u within this either way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecipe:
    """How one network is trained."""

    stage: Stage
    epochs: int
    slices_per_epoch: int | None
    """None: every slice once."""
    batch_size: int
    optimizer: Optimizer
    learning_rate: float
    schedule: Schedule
    """``plateau`` multiplies the rate by ``plateau_factor`` when the validation score has not risen for
    ``plateau_patience`` epochs; ``cosine`` warms up for the first tenth of the steps and falls to zero at the last."""
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 leaves it alone."""
    loss: Loss
    label_smoothing: float = 0.0
    balance: Balance = "none"
    """Of the classes in an epoch."""
    score: Score
    """What the best epoch is chosen by, on the validation slices."""
    validation_slices: int | None = None
    """How many of them are looked at after each epoch, the same ones every time; None: all."""
    context_slices: Literal[0, 1] = 0
    """Neighbours on each side that the classifier sees as channels."""
    soft_labels: bool = False
    """Learn the share of readers per class instead of the label most of them gave."""
    averaging: float = 0.0
    """Decay of the running average of the weights, which is then what is validated and kept; 0: none. The decay grows
    from 0.1 in the first steps to this."""
    augmentation: Augmentation = Augmentation()
    blocks: tuple[int, int, int, int, int] = (32, 64, 128, 192, 256)
    """Channels of the classifier's five blocks; unused by the detector."""

    def decided(self) -> dict[str, Any]:
        """The values that are not the default: what is added to this class later leaves old runs the same."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = {item.name: given[item.name] for item in fields(self) if given[item.name] != item.default}
        return {name: asdict(value) if isinstance(value, Augmentation) else value for name, value in changed.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the chain is trained and how its outputs become calls."""

    name: str
    locate: StageRecipe
    classify: StageRecipe
    grade: StageRecipe
    folds: int = 10
    """One tenth tests, two tenths validate, seven train (with 10)."""
    group_by_patient: bool
    """Whether a patient is on one side of every split."""
    chains: Chains
    grade_on: GradeOn
    """Whose rootlet slices grading is trained on: those that stage 2 predicts, or those that readers labelled."""
    monotone_switch: bool = False
    """One change from cord to rootlets along the stack."""
    mirrored: bool = False
    """Trained classifiers look at the mirror image too, left for right, and their outputs are averaged."""
    temperature: bool = False
    """Scale the logits on the validation slices."""
    offsets: bool = False
    """Shift the logits of the grades too, each by its own, where patients apart gain by it."""
    operating_point: bool = False
    """Choose the over-diagnosis threshold of grade C on the validation slices."""
    abstain: bool = False
    """Choose score thresholds below which a slice is not graded on the validation slices."""
    train_level: str = ""
    """Grading learns slices of this level alone (``L4/L5``); empty: every level."""
    scale: float = 1.0
    """Share of epochs, folds and patients this run was reduced to."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where a value comes from, by dotted name."""

    def stage(self, stage: Stage) -> StageRecipe:
        """The part of one network."""
        part: StageRecipe = getattr(self, stage.value)
        return part

    def as_plain(self) -> dict[str, Any]:
        """JSON-ready, as a run stores it."""
        plain: dict[str, Any] = _plain(asdict(replace(self, sources=dict(self.sources))))
        return plain


SET_FOR_THIS_RUN: Final = "set for this run"
"""Source of a value that a command line changed."""
_PAPER: Final = "Won 2025, Methods"
_AUGMENT: Final = Augmentation(rotation_deg=10.0, scale=0.1, translate_mm=3.0, flip=0.5, noise=0.03)

WON2025: Final = Recipe(
    name="won2025",
    locate=StageRecipe(
        stage=Stage.LOCATE,
        epochs=30,
        slices_per_epoch=None,
        batch_size=8,
        optimizer="adam",
        learning_rate=1e-4,
        schedule="plateau",
        loss="detection",
        score="iou",
        augmentation=replace(_AUGMENT, rotation_deg=5.0, translate_mm=0.0),
    ),
    classify=StageRecipe(
        stage=Stage.CLASSIFY,
        epochs=200,
        slices_per_epoch=None,
        batch_size=32,
        optimizer="adam",
        learning_rate=1e-4,
        schedule="plateau",
        loss="binary-cross-entropy",
        balance="balanced",
        score="accuracy",
        augmentation=_AUGMENT,
    ),
    grade=StageRecipe(
        stage=Stage.GRADE,
        epochs=100,
        slices_per_epoch=None,
        batch_size=32,
        optimizer="adam",
        learning_rate=1e-4,
        schedule="plateau",
        loss="cross-entropy",
        balance="balanced",
        score="accuracy",
        augmentation=_AUGMENT,
    ),
    folds=10,
    group_by_patient=False,
    chains="per-reader",
    grade_on="predicted",
    sources=MappingProxyType(
        {
            "chains": f"{_PAPER}: one chain for each analyzer",
            "folds": f"{_PAPER}: 10 folds, 7/2/1 training, validation and test, stratified by grade",
            "group_by_patient": "chosen: the paper does not speak of grouping; slices are split as it describes",
            "grade_on": f"{_PAPER}: slices classified as rootlet go on to grading",
            "*.optimizer, classify and grade": f"{_PAPER}: Adam, learning rate 1e-4",
            "*.schedule": f"{_PAPER}: halved when the validation accuracy levels off",
            "*.plateau_patience": "chosen: 5 epochs; not given",
            "*.score": f"{_PAPER}: the weights with the best validation accuracy are kept",
            "classify.epochs": f"{_PAPER}: 200",
            "grade.epochs": f"{_PAPER}: 100",
            "classify.loss": f"{_PAPER}: binary cross-entropy",
            "grade.loss": f"{_PAPER}: categorical cross-entropy",
            "*.balance": f"{_PAPER}: classes balanced within a mini-batch",
            "*.augmentation": f"{_PAPER}: rotation, scaling, translation, left-right flip, Gaussian noise; ranges are "
            "chosen: not given",
            "*.batch_size": "chosen: not given",
            "locate": f"{_PAPER}: Faster R-CNN, ResNet-50; schedule and score chosen: not given",
            "*.blocks": "chosen: 10 convolutions and 4 max-pools are given, widths are not",
        }
    ),
)

TRANSFER: Final = replace(
    WON2025,
    name="won2025-transfer",
    train_level="L4/L5",
    sources=MappingProxyType(
        {
            **WON2025.sources,
            "train_level": "Won 2025, Introduction: the group's earlier network saw slices of L4/L5 alone",
        }
    ),
)

_CONTRAST: Final = 0.35
_PATCHES: Final = Augmentation(rotation_deg=8.0, scale=0.1, translate_mm=2.5, flip=0.5, noise=0.04, gamma=_CONTRAST)

DEFAULT: Final = Recipe(
    name="default",
    locate=StageRecipe(
        stage=Stage.LOCATE,
        epochs=12,
        slices_per_epoch=1200,
        batch_size=12,
        optimizer="adamw",
        learning_rate=4e-4,
        schedule="cosine",
        weight_decay=1e-3,
        clip_norm=5.0,
        loss="detection",
        score="iou",
        validation_slices=240,
        augmentation=Augmentation(scale=0.15, flip=0.5, noise=0.05, gamma=_CONTRAST),
    ),
    classify=StageRecipe(
        stage=Stage.CLASSIFY,
        epochs=10,
        slices_per_epoch=2400,
        batch_size=32,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        weight_decay=1e-3,
        clip_norm=5.0,
        loss="binary-cross-entropy",
        label_smoothing=0.0,
        balance="balanced",
        score="accuracy",
        validation_slices=1000,
        context_slices=1,
        soft_labels=True,
        augmentation=_PATCHES,
    ),
    grade=StageRecipe(
        stage=Stage.GRADE,
        epochs=30,
        slices_per_epoch=3200,
        batch_size=32,
        optimizer="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        weight_decay=1e-3,
        clip_norm=5.0,
        loss="ordinal",
        label_smoothing=0.05,
        balance="sqrt",
        score="kappa",
        validation_slices=1500,
        context_slices=1,
        averaging=0.99,
        augmentation=_PATCHES,
    ),
    folds=10,
    group_by_patient=True,
    chains="consensus",
    grade_on="labelled",
    monotone_switch=True,
    mirrored=True,
    temperature=True,
    operating_point=False,
    abstain=True,
    sources=MappingProxyType({"*": "chosen; benchmarks/ablation.py measures what each part buys"}),
)

RECIPES: Final = {recipe.name: recipe for recipe in (DEFAULT, WON2025, TRANSFER)}


def recipe_named(name: str) -> Recipe:
    """A preset. Raises RecipeError."""
    if name not in RECIPES:
        raise RecipeError(f"there is no recipe {name!r}; choose {', '.join(RECIPES)}")
    return RECIPES[name]


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with its epochs reduced to a share, at least one each; the share is recorded. Raises RecipeError."""
    if not 0 < scale <= 1:
        raise RecipeError(f"--scale {scale:g}: give a share above 0 and up to 1")
    parts: dict[str, Any] = {stage.value: _fewer_epochs(recipe.stage(stage), scale) for stage in Stage}
    return replace(recipe, scale=scale, **parts)


def changed(recipe: Recipe, assignments: Mapping[str, str]) -> Recipe:
    """The recipe with values set by dotted name, as ``grade.loss`` = ``ordinal``. Raises RecipeError."""
    for name, text in assignments.items():
        recipe = _set(recipe, name, name.split("."), text)
    return replace(recipe, sources={**recipe.sources, **dict.fromkeys(assignments, SET_FOR_THIS_RUN)})


def _fewer_epochs(part: StageRecipe, scale: float) -> StageRecipe:
    return replace(part, epochs=max(1, round(part.epochs * scale)))


def _set(part: Any, name: str, path: list[str], text: str) -> Any:
    known = {item.name for item in fields(part)} - {"stage", "sources", "scale", "name"}
    if path[0] not in known:
        raise RecipeError(f"{name}: no such value; {type(part).__name__} has {', '.join(sorted(known))}")
    if len(path) > 1:
        inner = getattr(part, path[0])
        if not hasattr(inner, "__dataclass_fields__"):
            raise RecipeError(f"{name}: {path[0]} has no parts")
        return replace(part, **{path[0]: _set(inner, name, path[1:], text)})
    return replace(part, **{path[0]: _parsed(name, text, get_type_hints(type(part))[path[0]])})


def _parsed(name: str, text: str, kind: Any) -> Any:
    words = get_args(kind)
    try:
        if words and all(isinstance(word, str) for word in words):
            if text not in words:
                raise RecipeError(f"{name} = {text!r}: choose {', '.join(words)}")
            return text
        if words and all(isinstance(word, int) for word in words):
            return words[words.index(int(text))]
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float, str):
            return kind(text)
        if type(None) in words:  # int | None
            return None if text.lower() == "none" else int(text)
        if kind == tuple[int, int, int, int, int]:
            first, second, third, fourth, fifth = (int(part) for part in text.split(","))
            return first, second, third, fourth, fifth
    except (ValueError, KeyError):
        pass
    raise RecipeError(f"{name} = {text!r} cannot be read as {getattr(kind, '__name__', kind)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value
