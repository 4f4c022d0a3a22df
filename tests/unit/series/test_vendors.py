"""Enhanced MR as Philips, Siemens and Canon write it: each puts other words in other places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset

from stenosis_node.domain import Decision, SeriesReason
from stenosis_node.series import HINDRANCE, choose, read
from tests.unit.series.builder import SIDE, decide_one, enhanced_instance, headers_of, save, stack

R = SeriesReason
Change = Callable[[FileDataset], None]


def groups(dataset: FileDataset) -> list[Dataset]:
    return list(dataset.PerFrameFunctionalGroupsSequence)


def shared(dataset: FileDataset) -> Dataset:
    only: Dataset = dataset.SharedFunctionalGroupsSequence[0]
    return only


def item(**values: object) -> list[Dataset]:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return [made]


def philips(dataset: FileDataset) -> None:
    """Families of sequences in Frame Type, echo per frame, contrast in words, stacks numbered."""
    dataset.Manufacturer = "Philips Medical Systems"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M_SE", "M"]
    dataset.AcquisitionContrast = "T2"
    dataset.PulseSequenceName = "TSE"
    del shared(dataset).MREchoSequence
    for frame in groups(dataset):
        frame.MREchoSequence = item(EffectiveEchoTime=120.0)
        frame.MRImageFrameTypeSequence = item(
            FrameType=["ORIGINAL", "PRIMARY", "M_SE", "M"], ComplexImageComponent="MAGNITUDE", AcquisitionContrast="T2"
        )
        frame.PixelValueTransformationSequence = item(RescaleSlope=2.0, RescaleIntercept=0.0, RescaleType="normalized")


def siemens(dataset: FileDataset) -> None:
    """Names of sequences as of old, contrast unknown, measures per frame, coil elements."""
    dataset.Manufacturer = "Siemens Healthineers"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"]
    dataset.AcquisitionContrast = "UNKNOWN"
    dataset.PulseSequenceName = "*tse2d1_17"
    shared(dataset).MRReceiveCoilSequence = item(ReceiveCoilName="Spine_72")
    for frame in groups(dataset):
        frame.PixelMeasuresSequence = shared(dataset).PixelMeasuresSequence
        frame.MRImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"])
    del shared(dataset).PixelMeasuresSequence


def canon(dataset: FileDataset) -> None:
    """Short names of its own; everything that is the same for all frames is shared."""
    dataset.Manufacturer = "CANON_MEC"
    dataset.SeriesDescription = "FSE2D AX T2"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "UNKNOWN", "NONE"]
    dataset.PulseSequenceName = "FSE2D"
    dataset.EchoPulseSequence = "SPIN"
    shared(dataset).MRImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "UNKNOWN", "NONE"])
    shared(dataset).MRModifierSequence = item(InversionRecovery="NO", SpectrallySelectedSuppression="NONE")


VENDORS: dict[str, Change] = {"philips": philips, "siemens": siemens, "canon": canon}
PLACES = stack(4, tilt=0, top=(0, 0, 40)) + stack(4, tilt=25, top=(0, 0, 0))


def make(*changes: Change) -> FileDataset:
    pixels = np.stack([np.full((SIDE, SIDE), i + 1) for i in range(len(PLACES))])
    dataset = enhanced_instance("e", PLACES, pixels)
    for change in changes:
        change(dataset)
    return dataset


@pytest.mark.parametrize("vendor", VENDORS)
def test_chosen_and_read_frame_by_frame(tmp_path: Path, vendor: str) -> None:
    save(tmp_path, make(VENDORS[vendor]))
    (headers,) = headers_of(tmp_path)
    (decision,) = choose([headers])
    assert decision.reason is R.CHOSEN, decision.sentence
    series = read(headers, decision=decision)
    assert [(piece.ref.frame_number, piece.slab) for piece in series.slices] == [
        (number, (number - 1) // 4) for number in range(1, 9)
    ]
    factor = 2 if vendor == "philips" else 1
    assert [piece.pixels is not None and float(piece.pixels.flat[0]) for piece in series.slices] == [
        factor * number for number in range(1, 9)
    ]


def stir(dataset: FileDataset) -> None:
    shared(dataset).MRModifierSequence = item(InversionRecovery="YES", InversionTimes=[160.0])


def fat_suppressed(dataset: FileDataset) -> None:
    shared(dataset).MRModifierSequence = item(InversionRecovery="NO", SpectrallySelectedSuppression="FAT")
    if "SpectrallySelectedSuppression" in dataset:
        del dataset.SpectrallySelectedSuppression


def t1_weighted(dataset: FileDataset) -> None:
    shared(dataset).MRTimingAndRelatedParametersSequence[0].RepetitionTime = 550.0
    for group in (shared(dataset), *groups(dataset)):
        if "MREchoSequence" in group:
            group.MREchoSequence = item(EffectiveEchoTime=11.0)


def gradient(dataset: FileDataset) -> None:
    dataset.EchoPulseSequence = "GRADIENT"


def three_dimensional(dataset: FileDataset) -> None:
    dataset.MRAcquisitionType = "3D"


def diffusion(dataset: FileDataset) -> None:
    for frame in groups(dataset):
        frame.MRDiffusionSequence = item(DiffusionBValue=800.0, DiffusionDirectionality="ISOTROPIC")


OTHERS: dict[SeriesReason, Change] = {
    R.STIR: stir,
    R.FAT_SUPPRESSED: fat_suppressed,
    R.T1_WEIGHTED: t1_weighted,
    R.GRADIENT_ECHO: gradient,
    R.THREE_DIMENSIONAL: three_dimensional,
    R.DIFFUSION: diffusion,
}


@pytest.mark.parametrize("reason", OTHERS)
@pytest.mark.parametrize("vendor", VENDORS)
def test_other_sequences(tmp_path: Path, vendor: str, reason: SeriesReason) -> None:
    save(tmp_path, make(VENDORS[vendor], OTHERS[reason]))
    decision = decide_one(tmp_path)
    assert (decision.decision, decision.reason) == (Decision.REJECTED, reason), decision.sentence


@pytest.mark.parametrize("vendor", VENDORS)
def test_prone(tmp_path: Path, vendor: str) -> None:
    dataset = make(VENDORS[vendor])
    dataset.PatientPosition = "HFP"
    save(tmp_path, dataset)
    (headers,) = headers_of(tmp_path)
    (decision,) = choose([headers])
    assert decision.decision is Decision.NOT_GRADABLE
    series = read(headers, decision=decision)
    assert [piece.ref.frame_number for piece in series.slices] == list(range(1, 9))
    assert {piece.unreadable for piece in series.slices} == {decision.values[HINDRANCE]}


def test_a_coil_for_heads_speaks_in_enhanced_instances_too(tmp_path: Path) -> None:
    def head(dataset: FileDataset) -> None:
        shared(dataset).MRReceiveCoilSequence = item(ReceiveCoilName="Head_32")

    save(tmp_path, make(siemens, head))
    decision = decide_one(tmp_path)
    assert decision.reason is R.NOT_LUMBAR
    assert "head, going by the receive coil" in decision.sentence


def test_two_types_of_frame_in_one_instance(tmp_path: Path) -> None:
    """Philips keeps water and in-phase images of a Dixon acquisition together."""

    def dixon(dataset: FileDataset) -> None:
        for number, frame in enumerate(groups(dataset)):
            kind = "W" if number % 2 else "IP"
            frame.MRImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", kind, kind])

    save(tmp_path, make(philips, dixon))
    decision = decide_one(tmp_path)
    assert decision.values["slices that pass"] == "4"
    assert "Left out: 4 slices (fat-suppressed)" in decision.sentence
