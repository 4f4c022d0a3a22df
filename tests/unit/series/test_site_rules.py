"""What a site says about series in its configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stenosis_node.config import SeriesRule
from stenosis_node.domain import Decision, SeriesDecision, SeriesReason
from stenosis_node.series import HINDRANCE, choose, find_files, read, scan
from tests.unit.series.builder import blank_instance, headers_of, save, stack, t2_instance, write_series
from tests.unit.series.test_not_gradable import strip_pixels

R = SeriesReason
FAT = {"ScanOptions": ["FS"], "SeriesDescription": "t2_tse_fs_tra"}


def decide_with(folder: Path, *rules: SeriesRule) -> dict[str, SeriesDecision]:
    return {decision.description: decision for decision in choose(headers_of(folder), rules)}


def pin(**keys: Any) -> SeriesRule:
    return SeriesRule(action="pin", **keys)


def veto(**keys: Any) -> SeriesRule:
    return SeriesRule(action="veto", **keys)


def test_a_veto_names_the_rule_and_why(tmp_path: Path) -> None:
    write_series(tmp_path)
    rules = [pin(series_description="nothing"), veto(series_description="TSE_tra$", why="Research sequence.")]
    decision = decide_with(tmp_path, *rules)["t2_tse_tra"]
    assert (decision.decision, decision.reason) == (Decision.REJECTED, R.SITE_RULE)
    assert (
        decision.sentence
        == "Rejected: site rule 2 (series description matches 'TSE_tra$') vetoes it: Research sequence."
    )
    assert decision.values["site rule"] == "site rule 2 (series description matches 'TSE_tra$')"


def test_a_pin_overrules_contrast_and_says_what(tmp_path: Path) -> None:
    write_series(tmp_path, **FAT)
    (headers,) = headers_of(tmp_path)
    (decision,) = choose([headers], [pin(series_description="_FS_", why="our protocol has no other")])
    assert (decision.decision, decision.reason) == (Decision.GRADED, R.SITE_RULE)
    assert "site rule 1 (series description matches '_FS_') pins it: our protocol has no other." in decision.sentence
    assert "Overruled: fat is suppressed (Scan Options FS)" in decision.sentence
    series = read(headers, decision=decision)
    assert [piece.pixels is not None for piece in series.slices] == [True] * 8


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientPosition": "HFP"},
        {"SeriesDescription": "t2_tse_tra C3-7"},
        {"SliceThickness": 10},
        {"EchoTime": 11, "RepetitionTime": 500},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"places": stack(2)},
    ],
)
def test_a_pin_overrules_every_opinion(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_series(tmp_path, Manufacturer="ACME", **changes)
    (headers,) = headers_of(tmp_path)
    (decision,) = choose([headers], [pin(manufacturer="^acme$")])
    assert decision.decision is Decision.GRADED
    assert len(read(headers, decision=decision).slices) == len(headers.slices)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, R.NOT_AXIAL),
        ({"ImagePositionPatient": None}, R.NO_GEOMETRY),
        ({"SamplesPerPixel": 3}, R.SCREEN_SAVE),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, R.MOSAIC),
    ],
)
def test_a_pin_makes_no_axial_image(tmp_path: Path, changes: dict[str, Any], reason: SeriesReason) -> None:
    write_series(tmp_path, **changes)
    decision = decide_with(tmp_path, pin(series_description="tra"))["t2_tse_tra"]
    assert (decision.decision, decision.reason) == (Decision.REJECTED, reason)
    assert decision.sentence.endswith(
        "Site rule 1 (series description matches 'tra') pins it in vain: it has no axial MR images to grade."
    )


def test_nor_pixels_or_mr(tmp_path: Path) -> None:
    strip_pixels(write_series(tmp_path / "a", SeriesDescription="a"))
    save(tmp_path / "b", blank_instance("b", 1, "1.2.840.10008.5.1.4.1.1.2"))
    decisions = decide_with(tmp_path, pin(series_description=""))
    assert (decisions["a"].decision, decisions["a"].reason) == (Decision.NOT_GRADABLE, R.NO_PIXEL_DATA)
    assert decisions["a"].values[HINDRANCE] == "no instance has pixel data"
    assert "in vain" in decisions["a"].sentence
    assert (decisions[""].decision, decisions[""].reason) == (Decision.REJECTED, R.NOT_MR)


def test_the_first_rule_that_matches_decides(tmp_path: Path) -> None:
    write_series(tmp_path)
    rules = [veto(series_description="t2"), pin(series_description="tse")]
    assert decide_with(tmp_path, *rules)["t2_tse_tra"].decision is Decision.REJECTED
    assert decide_with(tmp_path, *rules[::-1])["t2_tse_tra"].decision is Decision.GRADED


def test_all_keys_of_a_rule_must_match(tmp_path: Path) -> None:
    write_series(tmp_path, StationName="MR2", ProtocolName="lws")
    assert decide_with(tmp_path, veto(station_name="mr2", protocol_name="bws"))["t2_tse_tra"].reason is R.CHOSEN
    assert decide_with(tmp_path, veto(station_name="mr2", protocol_name="LWS"))["t2_tse_tra"].reason is R.SITE_RULE


def test_the_sender_is_known_for_received_files_alone(tmp_path: Path) -> None:
    write_series(tmp_path)
    paths = find_files(tmp_path)
    rule = veto(calling_ae_title="^teach")
    sent = scan(paths, dict.fromkeys(paths, "TEACHING")).series
    assert choose(sent, [rule])[0].reason is R.SITE_RULE
    assert choose(scan(paths).series, [rule])[0].reason is R.CHOSEN
    assert sent[0].calling_ae_titles == ("TEACHING",)


def test_a_pinned_series_is_no_repeat_and_replaces_a_later_one(tmp_path: Path) -> None:
    write_series(tmp_path, "first", SeriesDescription="first")
    write_series(tmp_path, "second", SeriesDescription="second", AcquisitionTime="102200")
    decisions = decide_with(tmp_path, pin(series_description="first"))
    assert decisions["first"].decision is Decision.GRADED
    assert decisions["second"].reason is R.DUPLICATE_SERIES
    assert decisions["second"].values["better because"] == "a rule of the site pins that one"
    both = decide_with(tmp_path, pin(series_description="first|second"))
    assert {d.decision for d in both.values()} == {Decision.GRADED}


def test_of_a_pinned_series_what_passes_is_taken_first(tmp_path: Path) -> None:
    """A rule meant for a good series does not bring its first echo in."""
    for i, (orientation, center) in enumerate(stack(6)):
        save(tmp_path, t2_instance("s", ("pd", i), orientation, center, EchoTime=20))
        save(tmp_path, t2_instance("s", ("t2", i), orientation, center, EchoTime=100))
    (headers,) = headers_of(tmp_path)
    (decision,) = choose([headers], [pin(series_description="tra")])
    assert decision.values["TE"] == "100 ms"
    assert len(read(headers, decision=decision).slices) == 6


def test_rules_do_not_reach_other_studies(tmp_path: Path) -> None:
    write_series(tmp_path, **FAT)
    (headers,) = headers_of(tmp_path)
    other = replace(headers, study_instance_uid="1.2.3", series_instance_uid="1.2.4", description="other")
    decisions = choose([headers, other], [pin(series_description="_fs_")])
    assert [d.decision for d in decisions] == [Decision.GRADED, Decision.REJECTED]
