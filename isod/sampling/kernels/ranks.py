"""Ranks and draws by rank.

A counted radix tree over the upper bits of the score gives how many examples score below another. Scores that agree in
those bits (to about one part in 1000) share their ranks' weight: ties are broken at random.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import math

import numpy as np

from isod.sampling.kernels import INELIGIBLE
from isod.sampling.kernels.bitset import eligible_at
from isod.sampling.kernels.compiled import compiled, inlined
from isod.sampling.kernels.philox import INDEX, uniforms

EXPONENTIAL, LINEAR, LOWEST = 0, 1, 2  # how a rank becomes a weight; see rank_weight
KEY_SHIFT = 13  # ranks compare the upper 19 bits of a float32 score: sign, exponent, 10 bits of the fraction
KEYS = 1 << (32 - KEY_SHIFT)
KEY_BRANCH = 5  # each level of the rank counts sums 2⁵ cells of the one below
KEY_LEVELS = np.array([0, KEYS, KEYS + (KEYS >> 5), KEYS + (KEYS >> 5) + (KEYS >> 10)], dtype=np.int64)
KEY_CELLS = int(KEY_LEVELS[-1] + (KEYS >> 15))


@inlined
def rank_key(score, last_step):
    """The upper 19 bits of a float32, in an order that follows the number, negative ones included; 0 while unscored,
    and 1 for a score of 0: nothing can be learnt from that example, which is less than a negative difference."""
    if last_step < 0:
        return np.int64(0)
    if score == 0:
        return np.int64(1)
    bits = np.int64(np.float32(score).view(np.uint32))
    bits = 0xFFFFFFFF - bits if bits >= 0x80000000 else bits + 0x80000000
    return bits >> KEY_SHIFT


@inlined
def count_key(key_counts, key, change):
    for level in range(4):
        key_counts[KEY_LEVELS[level] + (key >> (KEY_BRANCH * level))] += change


@compiled
def rebuild_keys(score, last_step, key_counts):
    key_counts[:] = 0
    for i in range(len(score)):
        if last_step[i] != INELIGIBLE:
            count_key(key_counts, rank_key(score[i], last_step[i]), 1)


@inlined
def ranks_of(key_counts, key):
    """(how many examples have a smaller key, how many have this one)."""
    below = 0
    for level in range(3):
        cell = key >> (KEY_BRANCH * level)
        for c in range((cell >> KEY_BRANCH) << KEY_BRANCH, cell):
            below += key_counts[KEY_LEVELS[level] + c]
    for c in range(key >> (KEY_BRANCH * 3)):
        below += key_counts[KEY_LEVELS[3] + c]
    return below, key_counts[key]


@inlined
def rank_weight(kind, parameter, below, ties, eligible):
    """Weight in (0, 1] of an example with ``below`` examples under it and ``ties`` − 1 beside it, and the total's.

    With r = 0 for the highest score: EXPONENTIAL parameter^(−r/N); LINEAR (N − r)/N; LOWEST 1 for the ``parameter``
    lowest scores, else 0. Tied examples share the mean of the weights of their ranks, so the total is that of the
    ranks whatever the ties.
    """
    if kind == EXPONENTIAL:
        rate = math.log(parameter) / eligible
        top = eligible - below - ties  # how many are above
        if rate < 1e-300:
            return 1.0
        return math.exp(-rate * top) * math.expm1(-rate * ties) / (math.expm1(-rate) * ties)
    if kind == LINEAR:
        return (below + (ties + 1) / 2) / eligible
    return min(max(parameter - below, 0.0), np.float64(ties)) / ties


@compiled
def rank_total(kind, parameter, eligible):
    """Sum of rank_weight over all ranks."""
    if kind == EXPONENTIAL:
        rate = math.log(parameter) / eligible
        return np.float64(eligible) if rate < 1e-300 else math.expm1(-rate * eligible) / math.expm1(-rate)
    if kind == LINEAR:
        return (eligible + 1) / 2
    return min(parameter, np.float64(eligible))


@compiled
def rank_weights(kind, parameter, eligible, key_counts, score, last_step, indices, out):
    for j in range(len(indices)):
        i = indices[j]
        below, ties = ranks_of(key_counts, rank_key(score[i], last_step[i]))
        out[j] = 0.0 if last_step[i] == INELIGIBLE else rank_weight(kind, parameter, below, ties, eligible)


@compiled
def draw_ranked(
    seed, t, uniform_share, eligible, words, before, kind, parameter, key_counts, score, last_step,
    indices, probabilities,
):  # fmt: skip
    """Fill ``indices`` and ``probabilities`` [n]: uniform proposals, kept with probability rank_weight (exact)."""
    total = rank_total(kind, parameter, eligible)
    for j in range(len(indices)):
        u, v = uniforms(seed, t, j, INDEX)
        i = eligible_at(words, before, eligible, v)
        below, ties = ranks_of(key_counts, rank_key(score[i], last_step[i]))
        w = rank_weight(kind, parameter, below, ties, eligible)
        if u >= uniform_share:
            attempt = 1
            while True:
                accept, v = uniforms(seed, t, j, INDEX + attempt)
                if accept < w:
                    break
                i = eligible_at(words, before, eligible, v)
                below, ties = ranks_of(key_counts, rank_key(score[i], last_step[i]))
                w = rank_weight(kind, parameter, below, ties, eligible)
                attempt += 1
        indices[j] = i
        probabilities[j] = uniform_share / eligible + (1 - uniform_share) * w / total
