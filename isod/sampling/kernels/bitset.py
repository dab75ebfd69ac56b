"""Which examples may be drawn: a bit set that finds its k-th element."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from isod.sampling.kernels.compiled import compiled, inlined


@inlined
def _popcount(x):
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@inlined
def nth_eligible(words, before, k):
    """Index of the k-th set bit of ``words``; k itself where ``words`` is empty (every example is eligible).

    ``before[b]`` counts the bits set in the words ahead of block b of eight words.
    """
    if len(words) == 0:
        return np.int64(k)
    low, high = 0, len(before)  # the last block with before ≤ k
    while high - low > 1:
        middle = (low + high) // 2
        if before[middle] <= k:
            low = middle
        else:
            high = middle
    rest = k - before[low]
    word = low * 8
    count = _popcount(words[word])
    while rest >= count:
        rest -= count
        word += 1
        count = _popcount(words[word])
    bits = words[word]
    for _ in range(rest):
        bits &= bits - np.uint64(1)
    lowest = bits & (~bits + np.uint64(1))
    return np.int64(word * 64) + _popcount(lowest - np.uint64(1))


@inlined
def eligible_at(words, before, eligible, u):
    """Index of the eligible example that ``u`` in [0, 1) selects, all with the same probability."""
    return nth_eligible(words, before, min(np.int64(u * eligible), eligible - 1))


@compiled
def all_nth_eligible(words, before, places):
    """Replace each place among the eligible examples, in ``places`` [n], by the example's index."""
    for j in range(len(places)):
        places[j] = nth_eligible(words, before, places[j])
