"""A result holds what some peer gets, and the gate knows what that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from stenosis_node.config import Peer, Report
from stenosis_node.domain import Document, DocumentKind
from stenosis_node.report import Wanted, check, compose, content_key
from stenosis_node.report.gate import faults

from . import mr_study
from .conftest import Result

KEY = Wanted(captures="key", presentation_states=False)
OVERVIEW = Wanted(captures="overview", presentation_states=False)


def peer(**settings: Any) -> Peer:
    return Peer(ae_title="PACS", host="localhost", port=104, **settings)


def composed(good: Result, wanted: Wanted) -> tuple[Document, ...]:
    context = replace(mr_study.context(good.findings), key=content_key(good.findings, Report(), wanted), wanted=wanted)
    return compose(good.findings, [good.series], context)


def rules(documents: Sequence[Document], good: Result, wanted: Wanted) -> set[str]:
    return {fault.rule for fault in faults(documents, good.findings, [good.series], wanted=wanted)}


@pytest.mark.parametrize(
    ("peers", "wanted"),
    [
        ([], KEY),
        ([{}], KEY),
        ([{"captures": "none"}], OVERVIEW),
        ([{"captures": "overview"}, {"captures": "none"}], OVERVIEW),
        ([{"captures": "overview"}, {}], KEY),
        ([{}, {"captures": "all"}, {"captures": "overview"}], Wanted(captures="all", presentation_states=False)),
        ([{"captures": "all", "presentation_states": True, "results": False}, {}], KEY),
        ([{"captures": "none", "presentation_states": True}], replace(OVERVIEW, presentation_states=True)),
    ],
)
def test_the_most_that_a_peer_gets_is_wanted(peers: list[dict[str, Any]], wanted: Wanted) -> None:
    assert Wanted.by([peer(**settings) for settings in peers]) == wanted


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        (KEY, ["sc-overview", *["sc"] * 4, "sr"]),
        (OVERVIEW, ["sc-overview", "sr"]),
        (replace(OVERVIEW, presentation_states=True), ["sc-overview", "gsps", "sr"]),
        (Wanted(captures="all", presentation_states=False), ["sc-overview", *["sc"] * 9, "sr"]),
    ],
)
def test_what_nobody_gets_is_not_made(good: Result, wanted: Wanted, kinds: list[str]) -> None:
    documents = composed(good, wanted)
    assert [d.kind for d in documents] == kinds
    check(documents, good.findings, [good.series], wanted=wanted)
    keys = [d for d in good.documents if d.key and d.kind is DocumentKind.SC]
    if wanted.captures == "key":
        assert len(documents) == len(keys) + 2
        assert all(d.key for d in documents[1:-1])


def test_another_level_is_another_result(good: Result) -> None:
    levels = (Wanted(), KEY, OVERVIEW, replace(KEY, presentation_states=True))
    assert len({content_key(good.findings, Report(), level) for level in levels}) == len(levels)
    assert not {d.sop_instance_uid for d in composed(good, KEY)} & {d.sop_instance_uid for d in good.documents}


def test_the_gate_misses_what_was_wanted_and_finds_what_was_not(good: Result) -> None:
    key = composed(good, KEY)
    for position in range(1, 5):  # three worst images of slabs and one that is not gradable
        for instead in ((), (replace(key[position], key=False),)):
            found = rules((*key[:position], *instead, *key[position + 1 :]), good, KEY)
            assert len(found) == 1
            assert found <= {"captures", "key"}
    everything = composed(good, Wanted())
    assert rules(everything, good, KEY) == {"captures", "presentations"}
    assert rules(tuple(replace(d, key=True) for d in everything), good, KEY) == {"captures", "presentations"}
    without_cord = [d for d in everything if d.kind is not DocumentKind.GSPS and d.sop_instance_uid not in _cord(good)]
    graded = tuple(replace(d, key=True) for d in without_cord)
    assert rules(graded, good, KEY) == {"key"}  # more than the worst image of a slab
    assert rules(key, good, OVERVIEW) == {"captures"}
    assert rules(key, good, Wanted()) == {"captures", "presentations"}
    assert rules(composed(good, OVERVIEW), good, KEY) == {"captures"}


def _cord(good: Result) -> set[str]:
    everything = composed(good, Wanted())
    return {d.sop_instance_uid for d in everything[1:3]}
