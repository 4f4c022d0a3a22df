from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stenosis_node.domain import (
    AxialSeries,
    AxialSlice,
    CanalNotFound,
    Content,
    CordSlice,
    Grade,
    GradedSlice,
    NotGradable,
    Pixels,
    SliceFinding,
    SliceGeometry,
    SliceRef,
    StudyFindings,
    Unreadable,
    finding_box,
)
from stenosis_node.errors import BundleError, ConfigError
from stenosis_node.grading import pipeline as module
from stenosis_node.grading.bundle import Networks, build_classifier
from stenosis_node.grading.manifest import (
    Calibration,
    ClassifyStage,
    DecisionRules,
    GradeStage,
    Manifest,
    Thresholds,
)
from stenosis_node.grading.pipeline import Pipeline
from stenosis_node.grading.preprocess import Patch
from stenosis_node.grading.stages import Stages
from stenosis_node.grading.switch import call_rootlets
from training.export import untrained_networks

SHAPE = (128, 144)


def _slice(index: int, pixels: Pixels | None, *, spacing_mm: float = 1.0, unreadable: str | None = None) -> AxialSlice:
    return AxialSlice(
        SliceRef("1.2", "1.2.840.10008.5.1.4.1.1.4", f"1.2.3.{index}", None),
        Path(f"{index}.dcm"),
        index,
        SliceGeometry((0.0, 0.0, -4.0 * index), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), spacing_mm, spacing_mm, 4.0),
        slab=index // 3,
        pixels=pixels,
        unreadable=unreadable,
    )


def _noise(seed: int, shape: tuple[int, int] = SHAPE) -> Pixels:
    return (np.random.default_rng(seed).random(shape) * 1000).astype(np.float32)


def _series(*slices: AxialSlice) -> AxialSeries:
    return AxialSeries("1.1", "1.2", 1, None, slices)


@pytest.fixture(scope="module")
def networks() -> Networks:
    """Random weights with BatchNorm statistics of real activations, so that numbers spread."""
    made = untrained_networks()
    batch = torch.rand(4, 3, 128, 160)
    with torch.no_grad():
        made.locate.backbone.train()(batch)
        made.classify.train()(batch[:, :1, :96, :96])
        made.grade.train()(batch[:, :1, :96, :96])
    for network in (made.locate, made.classify, made.grade):
        network.eval()
    return made


@pytest.fixture(scope="module")
def mixed() -> AxialSeries:
    return _series(
        _slice(0, _noise(0)),
        _slice(1, None, unreadable="JPEG 2000 stream ends early"),
        _slice(2, np.full(SHAPE, 7.0, np.float32)),
        _slice(3, _noise(3, (160, 128))),
        _slice(4, _noise(4)),
        _slice(5, _noise(5), spacing_mm=0.2),
        _slice(6, _noise(6)),
    )


def _pipeline(networks: Networks, manifest: Manifest, batch_size: int = 4, **thresholds: float) -> Pipeline:
    changed = manifest.model_copy(update={"thresholds": Thresholds(**{**dict(manifest.thresholds), **thresholds})})
    return Pipeline(networks, changed, device="cpu", batch_size=batch_size)


def test_every_slice_gets_a_finding_in_order(networks: Networks, manifest: Manifest, mixed: AxialSeries) -> None:
    seen: list[tuple[int, int]] = []
    findings = _pipeline(networks, manifest).grade(mixed, progress=lambda done, total: seen.append((done, total)))
    assert [f.ref for f in findings.slices] == [s.ref for s in mixed.slices]
    assert [f.slab for f in findings.slices] == [s.slab for s in mixed.slices]
    assert seen == [(4, 7), (7, 7)]

    unreadable, constant, tiny = findings.slices[1], findings.slices[2], findings.slices[5]
    assert unreadable == Unreadable(mixed.slices[1].ref, 0, "JPEG 2000 stream ends early")
    assert isinstance(constant, NotGradable)
    assert (constant.reason, constant.box) == (module.NO_CONTRAST, None)
    assert isinstance(tiny, NotGradable)
    assert tiny.reason == module.FIELD_OF_VIEW
    for index in (0, 3, 4, 6):
        _check_located(findings.slices[index], mixed.slices[index])


def _check_located(finding: SliceFinding, item: AxialSlice) -> None:
    assert item.pixels is not None
    box = finding_box(finding)
    assert box is not None
    rows, columns = item.pixels.shape
    assert 0 <= box.x0 < box.x1 <= columns
    assert 0 <= box.y0 < box.y1 <= rows
    match finding:
        case GradedSlice():
            assert finding.grade is max(finding.scores, key=finding.scores.__getitem__)
            assert sum(finding.scores.values()) == pytest.approx(1, abs=1e-5)
            assert set(finding.scores) == set(Grade)
            assert finding.content_score >= 0.5
        case CordSlice():
            assert finding.content_score >= 0.5
        case _:
            pytest.fail(f"unexpected {finding}")


def test_findings_can_be_stored(networks: Networks, manifest: Manifest, mixed: AxialSeries) -> None:
    pipeline = _pipeline(networks, manifest)
    study = StudyFindings("1.1", (pipeline.grade(mixed),), pipeline.identity, "0.1.0")
    assert StudyFindings.from_json(study.to_json()) == study


def test_the_same_series_gives_the_same_findings(networks: Networks, manifest: Manifest, mixed: AxialSeries) -> None:
    pipeline = _pipeline(networks, manifest)
    assert pipeline.grade(mixed) == pipeline.grade(mixed)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_findings_do_not_depend_on_the_batch(networks: Networks, manifest: Manifest, precision: str) -> None:
    series = _series(*(_slice(i, _noise(i, SHAPE if i % 3 else (96, 160))) for i in range(6)))
    by_size = [
        Pipeline(networks, manifest, device="cpu", precision=precision, batch_size=size).grade(series).slices
        for size in (1, 4, 6)
    ]
    for one, four, six in zip(*by_size, strict=True):
        for other in (four, six):
            assert type(other) is type(one)
            box, other_box = finding_box(one), finding_box(other)
            assert box is not None
            assert other_box is not None
            assert (other_box.x0, other_box.y0, other_box.x1, other_box.y1) == pytest.approx(
                (box.x0, box.y0, box.x1, box.y1), abs=0.1
            )
            if isinstance(one, GradedSlice):
                assert other.grade is one.grade
                assert other.scores == pytest.approx(one.scores, abs=2e-3)


def test_a_neighbour_of_another_size_changes_nothing(networks: Networks, manifest: Manifest) -> None:
    alone = _pipeline(networks, manifest).grade(_series(_slice(0, _noise(0)))).slices[0]
    beside = _pipeline(networks, manifest).grade(_series(_slice(0, _noise(0)), _slice(1, _noise(1, (200, 224)))))
    box, same = finding_box(alone), finding_box(beside.slices[0])
    assert box is not None
    assert same is not None
    assert (same.x0, same.y1) == pytest.approx((box.x0, box.y1), abs=0.1)


def test_a_flipped_image_gives_the_flipped_box(networks: Networks, manifest: Manifest) -> None:
    upright = _slice(0, _noise(0))
    mirrored = replace(
        upright,
        pixels=np.ascontiguousarray(upright.pixels[::-1, ::-1]),
        geometry=replace(upright.geometry, row_direction=(-1.0, 0.0, 0.0), column_direction=(0.0, -1.0, 0.0)),
    )
    pipeline = _pipeline(networks, manifest)
    box, turned = (finding_box(pipeline.grade(_series(item)).slices[0]) for item in (upright, mirrored))
    assert box is not None
    assert turned is not None
    rows, columns = SHAPE
    assert (columns - turned.x1, rows - turned.y1) == pytest.approx((box.x0, box.y0), abs=0.02)


def test_low_scores_abstain(networks: Networks, manifest: Manifest) -> None:
    series = _series(_slice(0, _noise(0)))
    missed = _pipeline(networks, manifest, box_score=1.0).grade(series).slices[0]
    assert isinstance(missed, CanalNotFound)
    assert missed.best_score is not None
    assert 0 < missed.best_score < 1

    undecided = _pipeline(networks, manifest, content_score=1.0).grade(series).slices[0]
    assert isinstance(undecided, NotGradable)
    assert undecided.reason == module.LOW_CONTENT_SCORE
    assert undecided.content in Content


def test_a_low_grade_score_keeps_the_scores(networks: Networks, manifest: Manifest) -> None:
    series = _series(*(_slice(i, _noise(i)) for i in range(4)))
    graded = [f for f in _pipeline(networks, manifest).grade(series).slices if isinstance(f, GradedSlice)]
    if not graded:  # these random weights call everything cord: exchange the two outputs
        with torch.no_grad():
            networks.classify.classify.weight.neg_()
            networks.classify.classify.bias.neg_()
    findings = _pipeline(networks, manifest, grade_score=1.0).grade(series).slices
    abstained = [f for f in findings if isinstance(f, NotGradable)]
    assert abstained
    assert all(f.reason == module.LOW_GRADE_SCORE and f.scores is not None for f in abstained)
    assert all(f.content is Content.ROOTLET for f in abstained)


def test_bundles_load_and_say_who_they_are(untrained_bundle: Path, manifest: Manifest) -> None:
    pipeline = Pipeline.load(untrained_bundle, device="cpu", expected_digest=manifest.digest())
    assert pipeline.identity == manifest.identity()
    assert len(pipeline.grade(_series(_slice(0, _noise(0)))).slices) == 1


def test_a_wrong_bundle_or_device_is_refused(untrained_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        Pipeline.load(tmp_path)
    with pytest.raises(BundleError, match="the configuration asks for"):
        Pipeline.load(untrained_bundle, expected_digest="0" * 64)
    with pytest.raises(ConfigError, match=r"grading\.device"):
        Pipeline.load(untrained_bundle, device="abacus")
    if torch.cuda.device_count() < 9:
        with pytest.raises(ConfigError, match="not available"):
            Pipeline.load(untrained_bundle, device="cuda:9")


def test_an_empty_series_has_no_findings(networks: Networks, manifest: Manifest) -> None:
    assert _pipeline(networks, manifest).grade(_series()).slices == ()


def _deciding(
    networks: Networks, manifest: Manifest, calibration: Calibration | None = None, **rules: object
) -> Pipeline:
    decision = DecisionRules.model_validate(rules)
    changed = manifest.model_copy(update={"decision": decision, "calibration": calibration or Calibration()})
    return Pipeline(networks, changed, device="cpu", precision="fp32", batch_size=4)


@pytest.fixture(scope="module")
def stack(networks: Networks, manifest: Manifest) -> AxialSeries:
    """Noise whose rootlet scores lie on both sides of a half, after a shift of the last layer."""
    series = _series(*(_slice(i, _noise(i)) for i in range(10)))
    found = Pipeline(networks, manifest, device="cpu", precision="fp32").grade(series).slices
    odds = [math.log(score / (1 - score)) for score in map(_rootlet_score, found)]
    gain = 5.0 / (max(odds) - min(odds))
    with torch.no_grad():
        networks.classify.classify.weight *= gain
        networks.classify.classify.bias *= gain
        networks.classify.classify.bias[0] -= gain * float(np.median(odds))
    return series


def _rootlet_score(finding: SliceFinding) -> float:
    match finding:
        case GradedSlice():
            return finding.content_score
        case CordSlice():
            return 1 - finding.content_score
        case NotGradable() if finding.content is not None and finding.content_score is not None:
            return finding.content_score if finding.content is Content.ROOTLET else 1 - finding.content_score
    pytest.fail(f"no score of the content: {finding}")


def test_one_switch_decides_over_all_slabs_and_scores_stay(
    networks: Networks, manifest: Manifest, stack: AxialSeries
) -> None:
    alone = _deciding(networks, manifest).grade(stack).slices
    scores = [_rootlet_score(finding) for finding in alone]
    assert min(scores) < 0.5 < max(scores)
    together = _deciding(networks, manifest, monotone_switch=True, contradiction=1.0).grade(stack).slices
    assert [_rootlet_score(finding) for finding in together] == pytest.approx(scores, abs=2e-6)
    kinds = [isinstance(finding, GradedSlice) for finding in together]
    assert kinds == sorted(kinds)
    assert kinds == call_rootlets([item.plane.position[2] for item in stack.slices], scores)
    assert kinds != [isinstance(finding, GradedSlice) for finding in alone]

    careful = _deciding(networks, manifest, monotone_switch=True, contradiction=0.501).grade(stack).slices
    doubted = [f.reason == module.CONTRADICTION if isinstance(f, NotGradable) else False for f in careful]
    own = [score > 0.5 for score in scores]
    assert doubted == [rootlets != mine for rootlets, mine in zip(kinds, own, strict=True)]


def test_at_the_operating_point_severe_grades_need_less(
    networks: Networks, manifest: Manifest, stack: AxialSeries
) -> None:
    scores = {Grade.A: 0.1, Grade.B: 0.5, Grade.C: 0.25, Grade.D: 0.15}
    assert module.call_grade(scores, DecisionRules()) is Grade.B
    assert module.call_grade(scores, DecisionRules(severe_threshold=0.4)) is Grade.C
    assert module.call_grade(scores, DecisionRules(severe_threshold=0.41)) is Grade.B
    split = {Grade.A: 0.1, Grade.B: 0.3, Grade.C: 0.35, Grade.D: 0.25}
    assert module.call_grade(split, DecisionRules(severe_threshold=0.7)) is Grade.B

    for threshold, possible in ((0.001, {Grade.C, Grade.D}), (0.999, {Grade.A, Grade.B})):
        found = _deciding(networks, manifest, severe_threshold=threshold).grade(stack).slices
        assert {finding.grade for finding in found if isinstance(finding, GradedSlice)} <= possible
    assert _deciding(networks, manifest, severe_threshold=0.3).identity.severe_threshold == 0.3


def test_temperatures_flatten_the_scores(networks: Networks, manifest: Manifest, stack: AxialSeries) -> None:
    sharp = _deciding(networks, manifest).grade(stack).slices
    calibration = Calibration(classify_temperature=4.0, grade_temperature=2.0)
    flat = _deciding(networks, manifest, calibration).grade(stack).slices
    for one, other in zip(sharp, flat, strict=True):
        if isinstance(one, GradedSlice) and isinstance(other, GradedSlice):
            powers = {grade: score**0.5 for grade, score in one.scores.items()}
            assert other.scores == pytest.approx(
                {grade: power / sum(powers.values()) for grade, power in powers.items()}, abs=1e-3
            )
            odds = one.content_score / (1 - one.content_score)
            assert other.content_score == pytest.approx(odds**0.25 / (1 + odds**0.25), abs=1e-3)


def test_offsets_move_the_scores_of_the_grades_alone(
    networks: Networks, manifest: Manifest, stack: AxialSeries
) -> None:
    offsets = (0.0, 0.7, -0.2, -1.0)
    plain = _deciding(networks, manifest).grade(stack).slices
    moved = _deciding(networks, manifest, Calibration(grade_offsets=offsets)).grade(stack).slices
    compared = 0
    for one, other in zip(plain, moved, strict=True):
        if isinstance(one, GradedSlice) and isinstance(other, GradedSlice):
            weights = {
                grade: score * math.exp(offset)
                for (grade, score), offset in zip(one.scores.items(), offsets, strict=True)
            }
            whole = sum(weights.values())
            assert other.scores == pytest.approx({grade: w / whole for grade, w in weights.items()}, abs=1e-3)
            assert other.content_score == pytest.approx(one.content_score)
            compared += 1
    assert compared


def test_neighbours_are_seen_across_batches_but_not_across_slabs(networks: Networks, manifest: Manifest) -> None:
    stages = {"classify": ClassifyStage(context_slices=1), "grade": GradeStage()}
    changed = manifest.model_copy(update=stages)
    torch.manual_seed(5)
    wide = Networks(networks.locate, build_classifier(stages["classify"]).eval(), networks.grade)
    series = _series(*(_slice(i, _noise(i)) for i in range(5)))  # slabs of slices 0 to 2, and 3 and 4
    scores = [
        [
            _rootlet_score(f)
            for f in Pipeline(wide, changed, device="cpu", precision="fp32", batch_size=size).grade(series).slices
        ]
        for size in (1, 5)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    other = replace(series, slices=(*series.slices[:2], _slice(2, _noise(77)), *series.slices[3:]))
    moved = [
        _rootlet_score(f)
        for f in Pipeline(wide, changed, device="cpu", precision="fp32", batch_size=2).grade(other).slices
    ]
    changed_at = [i for i, (one, two) in enumerate(zip(scores[0], moved, strict=True)) if abs(one - two) > 1e-5]
    assert 1 in changed_at
    assert not {0, 3, 4} & set(changed_at)


def test_a_network_that_looks_at_the_mirror_image_too_makes_no_difference_between_left_and_right(
    networks: Networks, manifest: Manifest
) -> None:
    patches = [Patch(torch.rand(1, 96, 96, generator=torch.Generator().manual_seed(n)), 1.0) for n in range(3)]
    mirrored = [replace(patch, pixels=patch.pixels.flip(-1)) for patch in patches]

    def scored(*, both: bool) -> list[list[list[float]]]:
        stages = {name: getattr(manifest, name).model_copy(update={"mirrored": both}) for name in ("classify", "grade")}
        ready = Stages(networks, manifest.model_copy(update=stages), device="cpu", precision="fp32")
        return [
            [list(row.values()) for row in (*ready.grade_scores(looked), *ready.content_scores(looked))]
            for looked in (patches, mirrored)
        ]

    alone, turned = scored(both=False)
    assert not np.allclose(alone[:3], turned[:3], atol=1e-6)
    together, turned = scored(both=True)
    for one, other in zip(together, turned, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
        assert sum(one) == pytest.approx(1)
