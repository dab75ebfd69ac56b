"""The time that a sweep says is left."""

import pytest

from isod.orchestration.progress import clock, seconds_left


def test_by_hand():
    """A tenth of the work in the 100 s since the first result, 0.89 left: 890 s, whatever came before."""
    assert seconds_left((30.0, 0.01), (130.0, 0.11)) == pytest.approx(890)
    assert seconds_left((0.0, 0.0), (60.0, 1.0)) == 0


def test_too_little_to_tell():
    assert seconds_left((30.0, 0.05), (31.0, 0.06)) is None
    assert seconds_left((30.0, 1.0), (31.0, 1.0)) is None  # a sweep of one result


@pytest.mark.parametrize(("seconds", "text"), [(0.9, "0:00"), (61, "1:01"), (3725.5, "1:02:05")])
def test_clock(seconds, text):
    assert clock(seconds) == text
