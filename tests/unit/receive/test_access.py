"""The access rules, as a table."""

from __future__ import annotations

import pytest

from stenosis_node.config import Receive
from stenosis_node.receive import AssociationRequest, admit


def request(called: str = "NODE", calling: str = "PACS", open_associations: int = 0) -> AssociationRequest:
    return AssociationRequest(
        called_ae_title=called, calling_ae_title=calling, address="127.0.0.1", open_associations=open_associations
    )


@pytest.mark.parametrize(
    ("asked", "rules", "expected"),
    [
        (request(), {}, None),
        (request(called="NODE   "), {}, None),
        (request(called="node"), {}, (1, 1, 7)),
        (request(called="OTHER"), {}, (1, 1, 7)),
        (request(called="OTHER"), {"check_called_ae_title": False}, None),
        (request(calling="PACS "), {"calling_ae_titles": ("PACS",)}, None),
        (request(calling="ELSE"), {"calling_ae_titles": ("PACS",)}, (1, 1, 3)),
        (request(open_associations=1), {"max_associations": 2}, None),
        (request(open_associations=2), {"max_associations": 2}, (2, 3, 2)),
        (request(called="OTHER", open_associations=2), {"max_associations": 2}, (1, 1, 7)),
    ],
)
def test_rules(asked: AssociationRequest, rules: dict[str, object], expected: tuple[int, int, int] | None) -> None:
    answer = admit(asked, Receive(ae_title="NODE", **rules))
    assert answer.accepted is (expected is None)
    if expected is not None:
        assert (answer.result, answer.source, answer.diagnostic) == expected
        assert asked.calling_ae_title.strip() in answer.sentence
