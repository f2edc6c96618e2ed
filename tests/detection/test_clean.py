"""Honest results stay as they are. `benchmarks/false_positives.py` counts the same over folders of real text."""

from collections import Counter

import pytest

from tests.detection.clean import clean
from tests.detection.planted import looking_for

TEXTS = clean()

KNOWN = {"columns": {"credit_card": 16}}
"""What is found all the same: of four four-digit numbers in a row, the first with an issuer's prefix, each tenth looks
like a card's number."""


@pytest.mark.parametrize("name", TEXTS)
def test_finds_in_an_honest_result_what_is_known_and_no_more(name):
    assert Counter(span.what for span in looking_for().spans(TEXTS[name])) == KNOWN.get(name, {})


def test_finds_nothing_in_all_the_others_at_once():
    others = {name: text for name, text in TEXTS.items() if name not in KNOWN}
    assert len(others) > 40
    assert looking_for().first([others, list(others.values())]) is None
