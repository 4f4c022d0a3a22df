"""A peer that refuses, hangs, answers nonsense or never ends: every wait is bounded, every failure has its sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID, MRImageStorage, generate_uid
from pynetdicom import evt

from stenosis_node.errors import PermanentError, TransientError
from stenosis_node.query import (
    FetchedInstance,
    FetchOutcome,
    KnownInstance,
    PeerAway,
    fetching,
    find_instances,
    finding,
    get_instances,
    move_instances,
)
from stenosis_node.query.conversation import Watch
from tests.unit.query.conftest import FIND, GET, MOVE, Broken, Study

Start = Callable[..., Broken]
Answers = Iterator[Any]


def found(level: str, **values: str) -> Dataset:
    match = Dataset()
    match.QueryRetrieveLevel = level
    for key, value in values.items():
        setattr(match, key, value)
    return match


def wanted(study: Study, n: int = 3) -> list[KnownInstance]:
    datasets = [ds for ds in study.datasets.values() if ds.Modality == "MR"][:n]
    return [KnownInstance(ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.SOPClassUID) for ds in datasets]


def get(
    peer: Broken, study: Study, *, keep: Callable[[FetchedInstance], None] = lambda _: None, n: int = 3, **options: Any
) -> FetchOutcome:
    options = {"timeout_s": 1.0, "max_object_bytes": 1_000_000} | options
    return get_instances(
        peer.peer(options["timeout_s"]),
        study.uid,
        wanted(study, n),
        calling_ae_title="NODE",
        keep=keep,
        max_object_bytes=options["max_object_bytes"],
    )


# --------------------------------------------------------------------------- C-FIND


def find(peer: Broken, study_uid: str = "1.2.3", *, timeout_s: float = 1.0) -> tuple[KnownInstance, ...]:
    return find_instances(peer.peer(timeout_s), study_uid, calling_ae_title="NODE")


def test_a_peer_without_c_find_is_told_by_name(start_broken: Start) -> None:
    with pytest.raises(PermanentError, match=r"does not accept .* FIND"):
        find(start_broken((MOVE,)))


def test_a_peer_that_hangs_costs_its_time_limit_once(start_broken: Start) -> None:
    peer = start_broken()

    def hang(event: evt.Event) -> Answers:
        peer.released.wait(30)
        yield 0x0000, None

    peer.on_find = hang
    begin = time.monotonic()
    with pytest.raises(PeerAway, match=r"BROKEN at 127.0.0.1 port \d+ did not answer for 1 s during C-FIND"):
        find(peer)
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("limit", ["time", "matches"])
def test_endless_matches_end(start_broken: Start, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    peer = start_broken()

    def never_ending(event: evt.Event) -> Answers:
        while not event.is_cancelled and event.assoc.is_established:
            yield 0xFF00, found("SERIES", StudyInstanceUID="1.2.3", SeriesInstanceUID=generate_uid(), Modality="MR")

    peer.on_find = never_ending
    if limit == "matches":
        monkeypatch.setattr(finding, "MAX_MATCHES", 50)
    else:
        monkeypatch.setattr(finding, "Watch", lambda of, **limits: Watch(of, **(limits | {"total_s": 4.0})))
    begin = time.monotonic()
    with pytest.raises((PeerAway, PermanentError), match=r"was not done after 4 s|more than 50 matches"):
        find(peer, timeout_s=20)  # of silence, which a busy machine must not come near
    assert time.monotonic() - begin < 60


def test_matches_of_other_studies_and_series_are_none(start_broken: Start) -> None:
    peer = start_broken()

    def everything(event: evt.Event) -> Answers:
        """Keys are ignored altogether."""
        if event.identifier.QueryRetrieveLevel == "SERIES":
            yield 0xFF00, found("SERIES", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1", Modality="MR")
            yield 0xFF00, found("SERIES", StudyInstanceUID="9.9", SeriesInstanceUID="9.9.1", Modality="MR")
        else:
            ours = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}
            yield 0xFF00, found("IMAGE", **ours, SOPInstanceUID="1.2.3.1.1")
            yield 0xFF00, found("IMAGE", **(ours | {"SeriesInstanceUID": "1.2.3.2"}), SOPInstanceUID="1.2.3.2.1")
        yield 0x0000, None

    peer.on_find = everything
    assert find(peer) == (KnownInstance("1.2.3.1.1", "1.2.3.1", ""),)


def test_a_series_without_modality_may_be_mr_and_another_is_not_asked_for(start_broken: Start) -> None:
    peer = start_broken()

    def answer(event: evt.Event) -> Answers:
        if event.identifier.QueryRetrieveLevel == "SERIES":
            yield 0xFF00, found("SERIES", SeriesInstanceUID="1.2.3.1")
            yield 0xFF00, found("SERIES", SeriesInstanceUID="1.2.3.2", Modality="SR")
        else:
            yield 0xFF00, found("IMAGE", SOPInstanceUID=f"{event.identifier.SeriesInstanceUID}.7")
        yield 0x0000, None

    peer.on_find = answer
    assert find(peer) == (KnownInstance("1.2.3.1.7", "1.2.3.1", ""),)
    assert [r.QueryRetrieveLevel for r in peer.requests] == ["SERIES", "IMAGE"]
    assert peer.associations == 1


def test_matches_without_their_uid_are_of_no_use(start_broken: Start) -> None:
    peer = start_broken()
    peer.on_find = lambda event: iter([(0xFF00, found("SERIES", Modality="MR")), (0x0000, None)])

    with pytest.raises(PermanentError, match="answers C-FIND without SeriesInstanceUID"):
        find(peer)


@pytest.mark.parametrize(
    ("status", "error", "meaning"),
    [
        (0xA700, TransientError, "out of resources"),
        (0xC123, TransientError, "unable to process"),
        (0xA900, PermanentError, "the identifier does not match"),
        (0x0124, PermanentError, "not authorised"),
    ],
)
def test_a_failure_status_is_temporary_or_not(
    start_broken: Start, status: int, error: type[Exception], meaning: str
) -> None:
    peer = start_broken()
    peer.on_find = lambda event: iter([(status, None)])

    with pytest.raises(error, match=rf"answered 0x{status:04X} \({meaning}.*\) to C-FIND") as caught:
        find(peer)
    assert not isinstance(caught.value, PeerAway)  # it answered


def test_a_peer_that_hangs_up_between_matches(start_broken: Start) -> None:
    peer = start_broken()

    def abort(event: evt.Event) -> Answers:
        yield 0xFF00, found("SERIES", SeriesInstanceUID="1.2.3.1", Modality="MR")
        event.assoc.abort()

    peer.on_find = abort
    with pytest.raises(PeerAway, match="aborted"):
        find(peer)


# --------------------------------------------------------------------------- C-GET


def sends(*datasets: Dataset, subs: int | None = None) -> Callable[[evt.Event], Answers]:
    def answer(event: evt.Event) -> Answers:
        yield len(datasets) if subs is None else subs
        for dataset in datasets:
            yield 0xFF00, dataset

    return answer


def test_get_asks_by_series_and_in_chunks(start_broken: Start, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "CHUNK", 3)
    peer = start_broken()
    peer.on_get = sends(subs=0)

    get(peer, study, n=8)

    asked = [(r.SeriesInstanceUID, r["SOPInstanceUID"].VM) for r in peer.requests]
    assert [n for _, n in asked] == [3, 2, 3]
    assert len({series for series, _ in asked}) == 2
    assert {r.QueryRetrieveLevel for r in peer.requests} == {"IMAGE"}


def test_sub_operations_that_fail_are_counted(start_broken: Start, study: Study) -> None:
    peer = start_broken()
    good, *_ = (study.datasets[i.sop_instance_uid] for i in wanted(study))
    foreign = Study(study.folder).add(generate_uid(), 1)
    peer.on_get = sends(good, foreign, subs=2)
    kept: list[FetchedInstance] = []

    outcome = get(peer, study, keep=kept.append)

    assert [i.sop_instance_uid for i in kept] == [good.SOPInstanceUID]
    assert (outcome.asked, outcome.completed, outcome.failed) == (3, 1, 1)


def test_what_cannot_be_kept_is_refused_and_told(start_broken: Start, study: Study) -> None:
    peer = start_broken()
    peer.on_get = sends(*(study.datasets[i.sop_instance_uid] for i in wanted(study)))

    def keep(instance: FetchedInstance) -> None:
        raise TransientError("the disk is full")

    with pytest.raises(TransientError, match="the disk is full"):
        get(peer, study, keep=keep)


def test_a_peer_without_c_get_is_told_what_to_configure(start_broken: Start, study: Study) -> None:
    with pytest.raises(PermanentError, match=r'does not offer C-GET .*: set query of the peer to "move"'):
        get(start_broken((FIND,)), study)


def test_a_peer_that_does_not_take_the_provider_role_is_told_too(start_broken: Start, study: Study) -> None:
    with pytest.raises(PermanentError, match="no storage context in which it sends"):
        get(start_broken(roles=False), study)


def test_a_silent_c_get_ends(start_broken: Start, study: Study) -> None:
    peer = start_broken()

    def hang(event: evt.Event) -> Answers:
        yield 1
        peer.released.wait(30)
        yield 0x0000, None

    peer.on_get = hang
    begin = time.monotonic()
    with pytest.raises(PeerAway, match=r"did not answer for 1\.2 s during C-GET"):
        get(peer, study, timeout_s=0.3)
    assert time.monotonic() - begin < 15


def test_an_object_larger_than_we_take_ends_it(start_broken: Start, study: Study) -> None:
    peer = start_broken()
    large = Study(study.folder, uid=study.uid).add(generate_uid(), 1)
    large.PixelData = bytes(4_000_000)
    peer.on_get = sends(large)
    kept: list[FetchedInstance] = []

    with pytest.raises(PeerAway, match="sent more than 2 MB at once"):
        get(peer, study, keep=kept.append, max_object_bytes=1_000_000)
    assert kept == []


def test_no_association_has_more_contexts_than_it_can() -> None:
    many = [KnownInstance(f"1.{n}", "1", f"1.2.840.10008.5.1.4.1.1.{n}") for n in range(50)]

    contexts, classes = fetching._storage_contexts(many)

    assert len(contexts) <= 127
    assert len(classes) == 7


def test_all_mr_classes_are_proposed_when_the_peer_does_not_tell() -> None:
    _, classes = fetching._storage_contexts([KnownInstance("1.1", "1", ""), KnownInstance("1.2", "1", MRImageStorage)])

    assert set(classes) == {UID(c) for c in fetching.MR_CLASSES}


# --------------------------------------------------------------------------- C-MOVE


def move(peer: Broken, study: Study) -> FetchOutcome:
    return move_instances(peer.peer(), study.uid, wanted(study), calling_ae_title="NODE", destination="NODE")


def test_an_unknown_destination_is_to_be_registered_there(start_broken: Start, study: Study) -> None:
    peer = start_broken()
    peer.on_move = lambda event: iter([(None, None)])

    with pytest.raises(PermanentError, match="no move destination of our AE title: register it there"):
        move(peer, study)


def test_a_peer_without_c_move(start_broken: Start, study: Study) -> None:
    with pytest.raises(PermanentError, match=r"does not accept .* MOVE"):
        move(start_broken((GET,)), study)
