"""The short form of the fuzz. The long one: ``python -m tests.hostile --cases 100000`` or STENOSIS_NODE_FUZZ=100000."""

from __future__ import annotations

import os

import pytest

from tests.hostile.campaign import Campaign
from tests.hostile.cases import Conversation, Object, make_case
from tests.hostile.decoding import fuzz_decoding
from tests.hostile.target import Target

CASES = int(os.environ.get("STENOSIS_NODE_FUZZ", "80"))
SEED = int(os.environ.get("STENOSIS_NODE_FUZZ_SEED", "1"))
LIMIT_S = 300 + CASES // 5


def test_a_case_is_made_from_seed_and_number_alone() -> None:
    cases = [make_case(3, number) for number in range(40)]
    assert cases == [make_case(3, number) for number in range(40)]
    assert cases != [make_case(4, number) for number in range(40)]
    assert {type(case) for case in cases} == {Conversation, Object}


@pytest.mark.timeout(LIMIT_S)
def test_nothing_a_peer_says_breaks_the_node(target: Target) -> None:
    tally = Campaign(target, SEED).run(0, CASES)
    print(tally)
    assert tally.n == CASES
    assert tally.answers["0x0000"] > CASES // 10  # proper objects are among them
    assert tally.answers["abort"] > CASES // 20


@pytest.mark.timeout(LIMIT_S)
def test_nothing_a_file_holds_breaks_its_reader() -> None:
    text, fine = fuzz_decoding(SEED, 0, CASES // 20)
    print(text)
    assert fine, text
