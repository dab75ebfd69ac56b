"""A few damaged inputs for every reader: whatever they hold, a result or a refusal in one sentence."""

import random

import pytest

from tests.system.fuzz.__main__ import fuzz
from tests.system.fuzz.readers import READERS


@pytest.mark.parametrize("name", [name for name in READERS if name != "command"])
def test_nothing_but_a_sentence(name, tmp_path):
    target = READERS[name](tmp_path)
    for seed in target.seeds:
        target.read(seed)  # what is not damaged is read
    tried, refused, crashed = fuzz(target, random.Random(0), seconds=2, keep=tmp_path, name=name)
    assert tried > refused > 0
    assert crashed == 0
