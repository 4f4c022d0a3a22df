"""What a weights bundle says about itself: recipe, classes, thresholds, metrics, digests. Works without torch.

A bundle is a folder with ``manifest.json`` and the files it names. The node reads every constant of preprocessing
and decision from here, so that weights and recipe cannot drift apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from stenosis_node.domain import (
    BundleIdentity,
    BundleStatus,
    Content,
    Grade,
    OperatingPoint,
    ReaderAgreement,
)
from stenosis_node.errors import BundleError

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION: Final = 1

Millimetres = Annotated[float, Field(gt=0, le=500)]
Score = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Width = Annotated[int, Field(ge=1, le=2048)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _is(default: object) -> Callable[[object], bool]:
    """Keeps what came to the schema later out of manifests that do not use it: their digests stay."""
    return lambda value: value == default


class Window(_Part):
    """Intensity percentiles that become 0 and 1."""

    low_percentile: Annotated[float, Field(ge=0, lt=50)] = 1.0
    high_percentile: Annotated[float, Field(gt=50, le=100)] = 99.5


class LocateInput(_Part):
    """The whole field of view, resampled and padded."""

    spacing_mm: Millimetres = 0.75
    multiple_px: Annotated[int, Field(ge=1)] = 32
    """Height and width are padded at the bottom and right to a multiple of this."""
    window: Window = Window()
    min_field_mm: Millimetres = 60.0
    max_field_mm: Millimetres = 450.0
    """A slice with a side outside these lengths is not located at all."""


class PatchInput(_Part):
    """A square of fixed width around the centre of the canal box, for the classifiers."""

    spacing_mm: Millimetres = 0.5
    width_mm: Millimetres = 48.0
    """Wide enough to hold 8 mm of posterior epidural fat behind the largest sac."""
    window: Window = Window(low_percentile=1.0, high_percentile=99.0)

    @property
    def width_px(self) -> int:
        """Side of the patch."""
        return round(self.width_mm / self.spacing_mm)


class LocateStage(_Part):
    """Faster R-CNN, ResNet-50 feature pyramid, one class."""

    architecture: Literal["fasterrcnn-resnet50-fpn"] = "fasterrcnn-resnet50-fpn"
    file: FileName = "locate.safetensors"
    pyramid_channels: Width = 128
    box_head_features: Width = 512
    anchor_px: Annotated[tuple[float, ...], Field(min_length=1)] = (6.0, 10.0, 16.0)
    anchor_ratios: Annotated[tuple[float, ...], Field(min_length=1)] = (0.55, 0.9)


Blocks = tuple[Width, Width, Width, Width, Width]
_BLOCKS: Blocks = (32, 64, 128, 192, 256)


class _Classifier(_Part):
    architecture: Literal["vgg-10conv-gap"] = "vgg-10conv-gap"
    file: FileName
    blocks: Blocks = _BLOCKS
    context_slices: Annotated[int, Field(ge=0, le=1, exclude_if=_is(0))] = 0
    """Neighbours on each side that the network sees as channels."""
    mirrored: Annotated[bool, Field(exclude_if=_is(False))] = False
    """The network looks at the mirror image too, left for right; its outputs are averaged."""

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return 1 + 2 * self.context_slices


class ClassifyStage(_Classifier):
    """Rootlet or cord. ``classes`` is the order of the network's outputs."""

    file: FileName = "classify.safetensors"
    classes: tuple[Literal[Content.ROOTLET], Literal[Content.CORD]] = (Content.ROOTLET, Content.CORD)


class GradeStage(_Classifier):
    """Schizas grade. ``classes`` is the order of the network's outputs."""

    file: FileName = "grade.safetensors"
    classes: tuple[Literal[Grade.A], Literal[Grade.B], Literal[Grade.C], Literal[Grade.D]] = (
        Grade.A,
        Grade.B,
        Grade.C,
        Grade.D,
    )


class Thresholds(_Part):
    """Below these the pipeline abstains."""

    box_score: Score = 0.5
    """A lower best box means no canal was found."""
    content_score: Score = 0.6
    """Of the predicted content (rootlet or cord; a coin toss is 0.5)."""
    grade_score: Score = 0.35
    """Of the likeliest grade (chance is 0.25)."""
    patch_inside: Score = 0.85
    """Least part of the patch that lies inside the image."""


_NO_OFFSETS: Final = (0.0, 0.0, 0.0, 0.0)
_Offset = Annotated[float, Field(ge=-20, le=20)]


class Calibration(_Part):
    """How logits become scores: divided by a temperature, then shifted; fitted on validation slices."""

    classify_temperature: Annotated[float, Field(gt=0, le=20)] = 1.0
    grade_temperature: Annotated[float, Field(gt=0, le=20)] = 1.0
    grade_offsets: Annotated[tuple[_Offset, _Offset, _Offset, _Offset], Field(exclude_if=_is(_NO_OFFSETS))] = (
        _NO_OFFSETS
    )
    """Added to the logits of A to D after the division; they move the borders between grades."""


class DecisionRules(_Part):
    """How scores become calls, beyond the thresholds."""

    monotone_switch: bool = False
    """One change from cord to rootlets along the stack, instead of each slice by itself."""
    contradiction: Annotated[float, Field(gt=0.5, le=1)] = 0.9
    """A slice whose own score contradicts the switch this much is not graded."""
    severe_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Grade C or D exactly when the scores of C and D add up to this; None: the likeliest grade."""


class TrainingData(_Part):
    """What the weights have seen."""

    id: str
    description: str
    slices: Annotated[int, Field(ge=0)]


class StudyLevel(_Part):
    """``metrics.study_level``: how the rule that makes the grade of an examination did on whole studies."""

    rule: Literal["worst-image"] = "worst-image"
    """The most severe grade of any graded image; the node knows no other rule."""
    positive: Literal["grade B, C or D", "grade C or D", "grade D"]
    sensitivity: Score
    specificity: Score
    studies: Annotated[int, Field(ge=1)]
    source: Annotated[str, Field(pattern=r"^[a-z][a-z -]{2,58}$")]
    """What they were, in words that follow a number: ``simulated studies``."""


class Readers(_Part):
    """``metrics.readers``: agreement of the grades with readers."""

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z -]{2,58}$")]
    """Who they were, in words that follow a number: ``simulated readers``."""
    number: Annotated[int, Field(ge=1)]
    measure: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z' -]{2,58}$")]
    value: Annotated[float, Field(ge=-1, le=1)]


class _Known(BaseModel):
    """The metrics that reports print; any other is for the model card alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    study_level: StudyLevel | None = None
    readers: Readers | None = None


class Manifest(_Part):
    """The whole manifest. Make it with :func:`read_manifest`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(min_length=1, max_length=64)]
    status: BundleStatus
    intended_use: Annotated[str, Field(min_length=1)]
    license: str
    training_data: TrainingData
    locate_input: LocateInput = LocateInput()
    patch_input: PatchInput = PatchInput()
    locate: LocateStage = LocateStage()
    classify: ClassifyStage = ClassifyStage()
    grade: GradeStage = GradeStage()
    thresholds: Thresholds = Thresholds()
    calibration: Annotated[Calibration, Field(exclude_if=_is(Calibration()))] = Calibration()
    decision: Annotated[DecisionRules, Field(exclude_if=_is(DecisionRules()))] = DecisionRules()
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    """Measured figures, and on which slices; shown to people, never used to decide.

    Reports print ``study_level`` (:class:`StudyLevel`) and ``readers`` (:class:`Readers`).
    """
    files: dict[FileName, Sha256]
    """sha256 of every other file of the bundle."""

    @model_validator(mode="after")
    def _stages_have_files(self) -> Manifest:
        for stage in (self.locate, self.classify, self.grade):
            if stage.file not in self.files:
                raise ValueError(f"files: no digest for {stage.file}")
        return self

    @model_validator(mode="after")
    def _printed_metrics(self) -> Manifest:
        try:
            readers = _Known.model_validate(self.metrics).readers
        except ValidationError as error:
            raise ValueError("; ".join(_faults(error, "metrics"))) from None
        if (
            readers is not None
            and self.status is BundleStatus.DEMONSTRATION
            and not readers.kind.startswith("simulated ")
        ):
            raise ValueError("metrics.readers: readers of a demonstration bundle must be called simulated")
        return self

    def to_bytes(self) -> bytes:
        """Canonical text, as stored."""
        return (json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()

    def digest(self) -> str:
        """sha256 of :meth:`to_bytes`; covers the weights because the manifest names their digests."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def identity(self) -> BundleIdentity:
        """What a result says about its weights."""
        known = _Known.model_validate(self.metrics)
        point, readers = known.study_level, known.readers
        return BundleIdentity(
            name=self.name,
            version=self.version,
            status=self.status,
            digest=self.digest(),
            intended_use=self.intended_use,
            operating_point=OperatingPoint(**point.model_dump()) if point is not None else None,
            agreement=(
                ReaderAgreement(readers.kind, readers.number, readers.measure, readers.value)
                if readers is not None
                else None
            ),
            severe_threshold=self.decision.severe_threshold,
        )


def read_manifest(folder: Path, *, expected_digest: str | None = None) -> Manifest:
    """Read a bundle's manifest and verify the digest of every file it names.

    expected_digest  sha256 of the manifest; any other bundle is refused
    raises           BundleError when anything is missing, unknown, malformed or changed
    """
    path = folder / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"{folder} is no weights bundle: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BundleError(f"{path} is not valid: {'; '.join(_faults(error))}") from error
    for name, digest in manifest.files.items():
        _verify(folder / name, digest)
    if expected_digest is not None and manifest.digest() != expected_digest.lower():
        raise BundleError(
            f"{folder} holds bundle {manifest.name} {manifest.version} with digest {manifest.digest()}, but the "
            f"configuration asks for {expected_digest.lower()}; put that one back, or change grading.bundle_digest if "
            "these weights are wanted"
        )
    return manifest


def sha256_of(path: Path) -> str:
    """sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path, digest: str) -> None:
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy the whole bundle again") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if found != digest:
        raise BundleError(f"{path} was changed: its sha256 is {found}, the manifest says {digest}")


def _faults(error: ValidationError, *place: str) -> list[str]:
    errors = error.errors(include_url=False, include_input=False)
    return [_sentence((*place, *e["loc"]), e["msg"]) for e in errors]


def _sentence(location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    return f"{key}: {text}" if key else text
