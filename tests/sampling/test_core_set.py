"""k-centre: by hand, and its factor of two against every other choice of centres."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isod.errors import InputError
from isod.sampling.core_set import cover_radius, k_centre

LINE = np.array([[0.0], [1.0], [2.0], [10.0]])


def test_by_hand():
    # from 0 the farthest is 10; then 0, 1, 2 are 0, 1, 2 away from their nearest centre
    assert k_centre(LINE, 3).tolist() == [0, 3, 2]
    assert cover_radius(LINE, [0]) == 10
    assert cover_radius(LINE, [0, 3]) == 2
    assert cover_radius(LINE, [0, 3, 2]) == 1
    assert k_centre(LINE, 2, given=[2]).tolist() == [2, 3]  # 8 away, where 0 is 2 away
    assert k_centre(LINE, 3, given=[3, 1]).tolist() == [3, 1, 0]  # 0 and 2 are as far: the first


def test_alike_examples_are_chosen_once():
    assert sorted(k_centre(np.zeros((5, 2)), 5, given=[2]).tolist()) == [0, 1, 2, 3, 4]


@given(
    points=st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=7),
    count=st.integers(1, 7),
    first=st.sets(st.integers(0, 6), min_size=1, max_size=2),
)
def test_the_greatest_distance_is_at_most_twice_the_least_one(points, count, first):
    features = np.array(points, float)
    first = sorted({index % len(points) for index in first})
    count = min(max(count, len(first)), len(points))
    greedy = cover_radius(features, k_centre(features, count, given=first))
    others = [index for index in range(len(points)) if index not in first]
    best = min(cover_radius(features, [*first, *rest]) for rest in combinations(others, count - len(first)))
    assert greedy <= 2 * best + 1e-9
    if len(first) == 1:  # whichever the first is, also against centres without it
        assert greedy <= 2 * min(cover_radius(features, c) for c in combinations(range(len(points)), count)) + 1e-9


@pytest.mark.parametrize(("count", "first"), [(5, [0]), (1, [0, 1]), (2, []), (2, [4]), (2, [-1])])
def test_impossible_numbers(count, first):
    with pytest.raises(InputError):
        k_centre(LINE, count, given=first)
