"""The k-centre core set: a few examples such that every other one has one of them near (Sener & Savarese 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from isod.errors import require
from isod.sampling.examples import FloatArray, IntArray


def k_centre(
    features: NDArray[np.floating],
    count: int,
    *,
    given: Sequence[int] | IntArray = (0,),
    advance: Callable[[int], None] = lambda count: None,
) -> IntArray:
    """Return centres chosen greedily: always the example that is farthest from those there are (algorithm 1).

    The greatest distance of an example to its nearest centre is at most twice the least one that any centres of this
    number reach which include the given ones (Gonzalez 1985). O(N · count · D) time, O(N) memory beside the features.

    Args:
        features: [N, D], finite.
        count: how many centres in all, those given included.
        given: the first centres, at least one.
        advance: called after each centre chosen.
    Returns:
        [count] int64, the given ones first, then in the order of choice; none twice.
    Raises:
        InputError: no centre is given, or one that is no example, or ``count`` is not between their number and N.
    """
    centres = list(dict.fromkeys(int(index) for index in given))
    require(bool(centres), "k-centre needs at least one first centre", centres)
    require(
        min(centres) >= 0 and max(centres) < len(features),
        f"k-centre's first centres must be in 0 … {len(features) - 1}",
        centres,
    )
    require(
        len(centres) <= count <= len(features),
        f"k-centre of {len(features)} examples must choose {len(centres)} … {len(features)}",
        count,
    )
    nearest = np.full(len(features), np.inf)
    for centre in centres:
        _approach(nearest, features, centre)
    while len(centres) < count:
        centres.append(int(nearest.argmax()))
        _approach(nearest, features, centres[-1])
        advance(1)
    return np.array(centres, np.int64)


def cover_radius(features: NDArray[np.floating], centres: Sequence[int] | IntArray) -> float:
    """Return the greatest distance of an example to its nearest centre; features [N, D]."""
    nearest = np.full(len(features), np.inf)
    for centre in centres:
        _approach(nearest, features, int(centre))
    return float(np.sqrt(nearest.max(initial=0.0)))


def _approach(nearest: FloatArray, features: NDArray[np.floating], centre: int) -> None:
    """Lower the squared distances [N] to the nearest centre by one centre more; −1 at the centre, so that it is not
    chosen twice where examples are alike."""
    difference = features - features[centre]
    np.minimum(nearest, np.einsum("nd,nd->n", difference, difference), out=nearest)
    nearest[centre] = -1.0
