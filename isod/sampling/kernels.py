"""Compiled inner loops of the importance table: random numbers, permutations, the sum tree, rank counts.

Everything here is numba, compiled at its first call and kept on disk beside this file (``cache=True``). Arrays are
one-dimensional; nothing allocates more than a batch. Sums are float64.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

# _nrt=False: nothing here allocates, and without numba's reference counts the loops run twice as fast.
_njit: Any = numba.njit
compiled = _njit(cache=True, _nrt=False)
inlined = _njit(cache=True, inline="always", _nrt=False)

WIDTH = 16  # children per node of the sum tree
UNSCORED = -1  # last_step of an example that has no score yet
INELIGIBLE = -2  # last_step of an example that may not be drawn

LATEST, MOMENTUM, MEAN, VARIANCE, CLOSENESS, FORGETTING = range(6)  # what the scores of an example add up to

PLAIN, SHIFTED, DECAYED = 0, 1, 2  # how a leaf's weight follows from its score; see node_weight

EXPONENTIAL, LINEAR, LOWEST = 0, 1, 2  # how a rank becomes a weight; see rank_weight
KEY_SHIFT = 13  # ranks compare the upper 19 bits of a float32 score: sign, exponent, 10 bits of the fraction
KEYS = 1 << (32 - KEY_SHIFT)
KEY_BRANCH = 5  # each level of the rank counts sums 2⁵ cells of the one below
KEY_LEVELS = np.array([0, KEYS, KEYS + (KEYS >> 5), KEYS + (KEYS >> 5) + (KEYS >> 10)], dtype=np.int64)
KEY_CELLS = int(KEY_LEVELS[-1] + (KEYS >> 15))

# What the words of a Philox block are used for, so that no two uses share a block.
INDEX, ACCEPT, PERMUTE, PRUNE = 0, 1 << 28, 2 << 28, 3 << 28

_MASK32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)


@inlined
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 (Salmon et al. 2011): four random 32-bit words for a 128-bit counter and a 64-bit key."""
    c0, c1, c2, c3 = np.uint64(c0), np.uint64(c1), np.uint64(c2), np.uint64(c3)
    k0, k1 = np.uint64(k0), np.uint64(k1)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> _S32) ^ c1 ^ k0, p1 & _MASK32, (p0 >> _S32) ^ c3 ^ k1, p0 & _MASK32
        k0 = (k0 + np.uint64(0x9E3779B9)) & _MASK32
        k1 = (k1 + np.uint64(0xBB67AE85)) & _MASK32
    return c0, c1, c2, c3


@inlined
def uniforms(seed, t, slot, use):
    """Two float64 in [0, 1) for slot ``slot`` of draw ``t``: they depend on nothing but the four arguments."""
    t, seed = np.uint64(t), np.uint64(seed)
    w0, w1, w2, w3 = philox(np.uint64(slot), np.uint64(use), t & _MASK32, t >> _S32, seed & _MASK32, seed >> _S32)
    u = np.float64((w0 >> np.uint64(5)) * np.uint64(67108864) + (w1 >> np.uint64(6))) / 9007199254740992.0
    v = np.float64((w2 >> np.uint64(5)) * np.uint64(67108864) + (w3 >> np.uint64(6))) / 9007199254740992.0
    return u, v


@compiled
def uniform_pairs(seed, t, use, u, v):
    """Fill ``u`` and ``v`` [n] with the two numbers of slots 0…n−1."""
    for slot in range(len(u)):
        u[slot], v[slot] = uniforms(seed, t, slot, use)


@compiled
def uniforms_of(seed, t, use, slots, out):
    """Fill ``out`` [n] with the first number of each of ``slots`` [n]."""
    for j in range(len(slots)):
        out[j], _ = uniforms(seed, t, slots[j], use)


# --- a permutation per epoch, in no memory ---------------------------------------------------------------------------


@inlined
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def permuted(seed, epoch, first, count, size, out):
    """Places ``first`` … ``first + count − 1`` of epoch ``epoch``'s permutation of 0 … size − 1, into ``out``.

    A Feistel network of 12 rounds over the smallest power of two ≥ size, walked until it lands below size (fewer than
    two steps on average): a bijection that can be asked at any place. Fewer than 8 bits would not mix well.
    """
    e, s = np.uint64(epoch), np.uint64(seed)
    w0, w1, w2, w3 = philox(0, PERMUTE, e & _MASK32, e >> _S32, s & _MASK32, s >> _S32)
    key, step = (w0 << _S32) | w1, (w2 << _S32) | w3 | np.uint64(1)
    bits = 8
    while (np.int64(1) << bits) < size:
        bits += 1
    low_bits = np.uint64(bits - bits // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits // 2)) - np.uint64(1)
    for j in range(count):
        x = np.uint64(first + j)
        while True:
            low, high = x & low_mask, x >> low_bits
            round_key = key
            for _ in range(6):
                high ^= _mix(low + round_key) >> np.uint64(17) & high_mask
                round_key += step
                low ^= _mix(high + round_key) >> np.uint64(17) & low_mask
                round_key += step
            x = (high << low_bits) | low
            if x < np.uint64(size):
                break
        out[j] = np.int64(x)


# --- which examples may be drawn -------------------------------------------------------------------------------------


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


@compiled
def all_nth_eligible(words, before, places):
    """Replace each place among the eligible examples, in ``places`` [n], by the example's index."""
    for j in range(len(places)):
        places[j] = nth_eligible(words, before, places[j])


# --- statistics ------------------------------------------------------------------------------------------------------


@compiled
def count_draws(indices, draw_count):
    for i in indices:
        draw_count[i] += 1


@compiled
def first_fault(indices, scores, last_step):
    """(code, position) of the first pair that an update must refuse; code 0 if there is none."""
    for j in range(len(indices)):
        i = indices[j]
        if i < 0 or i >= len(last_step):
            return 1, j
        if last_step[i] == INELIGIBLE:
            return 2, j
        if not np.isfinite(scores[j]):
            return 3, j
        if scores[j] < 0:
            return 4, j
    return 0, 0


@compiled
def apply_scores(
    history, momentum, indices, scores, step, score, last_step, score_count, mean, extra, offset, key_counts
):  # fmt: skip
    """Fold new scores into the table one after the other, so that of duplicates the last wins.

    ``mean`` becomes the running mean of the scores given per example (over the last 65535 at most), ``last_step`` the
    step, ``score`` what the history makes of them. ``key_counts`` follows, where ranks are kept (else length 0).
    """
    for j in range(len(indices)):
        i, x = indices[j], scores[j]
        if len(key_counts):
            _count_key(key_counts, rank_key(score[i], last_step[i]), -1)
        first = last_step[i] < 0
        if score_count[i] < 65535:
            score_count[i] += 1
        step_up = x - mean[i]
        mean[i] += step_up / score_count[i]
        last_step[i] = step
        if history == LATEST:
            value = x
        elif history == MOMENTUM:
            value = x if first else momentum * score[i] + (1 - momentum) * x
        elif history == MEAN:
            value = np.float64(mean[i])
        elif history == VARIANCE:
            extra[i] += step_up * (x - mean[i])  # Welford's sum of squared deviations
            n = np.float64(score_count[i])
            variance = max(extra[i], 0.0) / (n - 1) if n > 1 else 0.0
            value = math.sqrt(variance + variance * variance / max(n - 1, 1.0))
        elif history == CLOSENESS:
            p = min(max(np.float64(mean[i]), 0.0), 1.0)
            value = p * (1 - p)
        else:  # FORGETTING; extra: 0 never right so far, 1 right at the last visit, 2 forgotten since
            value = 1.0 if first else np.float64(score[i])
            wrong = x >= 0.5
            if wrong and extra[i] != 2:
                value += 1.0
            if not wrong:
                extra[i] = 1
            elif extra[i] == 1:
                extra[i] = 2
        score[i] = value - offset[i] if len(offset) else value
        if len(key_counts):
            _count_key(key_counts, rank_key(score[i], last_step[i]), 1)


# --- ranks -----------------------------------------------------------------------------------------------------------
# How many examples have a score below another is read off a counted radix tree over the upper bits of the score. Scores
# that agree in those bits (to about one part in 1000) share their ranks' weight: ties are broken at random.


@inlined
def rank_key(score, last_step):
    """The upper 19 bits of a float32, in an order that follows the number, negative ones included; 0 while unscored."""
    if last_step < 0:
        return np.int64(0)
    bits = np.int64(np.float32(score).view(np.uint32))
    bits = 0xFFFFFFFF - bits if bits >= 0x80000000 else bits + 0x80000000
    return bits >> KEY_SHIFT


@inlined
def _count_key(key_counts, key, change):
    for level in range(4):
        key_counts[KEY_LEVELS[level] + (key >> (KEY_BRANCH * level))] += change


@compiled
def rebuild_keys(score, last_step, key_counts):
    key_counts[:] = 0
    for i in range(len(score)):
        if last_step[i] != INELIGIBLE:
            _count_key(key_counts, rank_key(score[i], last_step[i]), 1)


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
    seed, t, slot, uniform_share, eligible, words, before, kind, parameter, key_counts, score, last_step,
    indices, probabilities,
):  # fmt: skip
    """Fill ``indices`` and ``probabilities`` [n]: uniform proposals, kept with probability rank_weight (exact)."""
    total = rank_total(kind, parameter, eligible)
    for j in range(len(indices)):
        u, v = uniforms(seed, t, slot + j, INDEX)
        i = nth_eligible(words, before, min(np.int64(v * eligible), eligible - 1))
        below, ties = ranks_of(key_counts, rank_key(score[i], last_step[i]))
        w = rank_weight(kind, parameter, below, ties, eligible)
        if u >= uniform_share:
            attempt = 1
            while True:
                accept, v = uniforms(seed, t, slot + j, INDEX + attempt)
                if accept < w:
                    break
                i = nth_eligible(words, before, min(np.int64(v * eligible), eligible - 1))
                below, ties = ranks_of(key_counts, rank_key(score[i], last_step[i]))
                w = rank_weight(kind, parameter, below, ties, eligible)
                attempt += 1
        indices[j] = i
        probabilities[j] = uniform_share / eligible + (1 - uniform_share) * w / total


# --- the sum tree ----------------------------------------------------------------------------------------------------
# Leaves are the scores. A node holds, over the scored leaves below it: sum of g·score, sum of g (mass), their number,
# and lowest and highest score. Arrays that a kind does not need have length 0.


@inlined
def node_weight(kind, alpha, beta, kappa, sum_, mass, count):
    """alpha·Σ g·s + beta·Σ g + kappa·n, never below 0.

    PLAIN: Σ s (alpha = 1). SHIFTED: Σ (s − min s) (alpha = 1, kappa = −min s). DECAYED: Σ (γ·g·s + (1 − γ·g)·prior)
    with g = 2^((last step − origin) / half-life) and γ = 2^((origin − now) / half-life).
    """
    if kind == PLAIN:
        return sum_
    if kind == SHIFTED:
        return max(alpha * sum_ + kappa * count, 0.0)
    return max(alpha * sum_ + beta * mass + kappa * count, 0.0)


@inlined
def leaf_weight(kind, alpha, beta, kappa, i, score, last_step, origin, half_life):
    if kind == PLAIN:
        return np.float64(score[i])
    if last_step[i] < 0:
        return 0.0
    if kind == SHIFTED:
        return max(score[i] + kappa, 0.0)
    g = math.exp2((last_step[i] - origin) / half_life)
    return max(alpha * g * score[i] + beta * g + kappa, 0.0)


@compiled
def leaf_weights(indices, alpha, beta, kappa, kind, score, last_step, origin, half_life, out):
    """Leaf weight of each of ``indices``, into ``out``."""
    for j in range(len(indices)):
        out[j] = leaf_weight(kind, alpha, beta, kappa, indices[j], score, last_step, origin, half_life)


# Unsigned indices spare numba's check for negative ones, which costs more than the sums themselves.
_U1, _U2, _U3, _U4, _U8, _U12, _UWIDTH = (np.uint64(k) for k in (1, 2, 3, 4, 8, 12, WIDTH))


@inlined
def _four(x, i):
    return (x[i] + x[i + _U1]) + (x[i + _U2] + x[i + _U3])


@inlined
def _refresh_bottom(node, kind, score, last_step, origin, half_life, sums, masses, counts, lows, highs):
    begin, end = node * WIDTH, min((node + 1) * WIDTH, len(score))
    if kind == PLAIN:
        if end - begin == WIDTH:
            b = np.uint64(begin)
            sums[node] = (_four(score, b) + _four(score, b + _U4)) + (_four(score, b + _U8) + _four(score, b + _U12))
        else:
            s = 0.0
            for i in range(begin, end):
                s += score[i]
            sums[node] = s
        return
    s, mass, count = 0.0, 0.0, 0
    low, high = np.inf, -np.inf
    for i in range(begin, end):
        if last_step[i] >= 0:
            count += 1
            if kind == SHIFTED:
                s += score[i]
                low = min(low, score[i])
                high = max(high, score[i])
            else:
                g = math.exp2((last_step[i] - origin) / half_life)
                s += g * score[i]
                mass += g
    sums[node] = s
    counts[node] = count
    if kind == SHIFTED:
        lows[node] = low
        highs[node] = high
    else:
        masses[node] = mass


@inlined
def _refresh_inner(node, begin, kind, sums, prefixes, masses, counts, lows, highs):
    s = 0.0
    if kind == PLAIN:
        b = np.uint64(begin)
        for _ in range(WIDTH // 4):  # four at a time: short chains of additions
            one, three = sums[b], sums[b + _U2]
            two, four = one + sums[b + _U1], three + sums[b + _U3]
            prefixes[b] = s + one
            prefixes[b + _U1] = s + two
            prefixes[b + _U2] = s + (two + three)
            s += two + four
            prefixes[b + _U3] = s
            b += _U4
        sums[node] = s
        return
    for c in range(begin, begin + WIDTH):
        s += sums[c]
    sums[node] = s
    count = 0
    for c in range(begin, begin + WIDTH):
        count += counts[c]
    counts[node] = count
    if kind == SHIFTED:
        low, high = lows[begin], highs[begin]
        for c in range(begin + 1, begin + WIDTH):
            low = min(low, lows[c])
            high = max(high, highs[c])
        lows[node] = low
        highs[node] = high
    else:
        mass = 0.0
        for c in range(begin, begin + WIDTH):
            mass += masses[c]
        masses[node] = mass


@compiled
def refresh(
    indices, nodes, starts, kind, score, last_step, origin, half_life, sums, prefixes, masses, counts, lows, highs
):
    """Recompute every node above ``indices`` from its children: nothing is ever added up in place, so nothing drifts.

    ``starts`` [levels + 1]: where each level begins in the node arrays, lowest level first; levels below the root are
    padded with empty nodes to a multiple of WIDTH. ``nodes`` [n] int64 is scratch.
    """
    count, previous = 0, -1
    for i in indices:
        if i // WIDTH != previous:
            previous = i // WIDTH
            nodes[count] = previous
            count += 1
    for j in range(count):
        _refresh_bottom(nodes[j], kind, score, last_step, origin, half_life, sums, masses, counts, lows, highs)
    for level in range(1, len(starts) - 1):
        parents = (starts[level] - starts[level - 1]) // WIDTH
        if parents <= count:  # few nodes: once each, rather than once per index
            count = parents
            for j in range(count):
                nodes[j] = j
        else:
            for j in range(count):
                nodes[j] //= WIDTH
        for j in range(count):
            begin = starts[level - 1] + nodes[j] * WIDTH
            _refresh_inner(starts[level] + nodes[j], begin, kind, sums, prefixes, masses, counts, lows, highs)


@compiled
def rebuild(starts, kind, score, last_step, origin, half_life, sums, prefixes, masses, counts, lows, highs):
    """Compute every node: O(N), at construction and after loading."""
    lows[:] = np.inf
    highs[:] = -np.inf
    for node in range(-(-len(score) // WIDTH)):
        _refresh_bottom(node, kind, score, last_step, origin, half_life, sums, masses, counts, lows, highs)
    for level in range(1, len(starts) - 1):
        for node in range((starts[level] - starts[level - 1]) // WIDTH):
            begin = starts[level - 1] + node * WIDTH
            _refresh_inner(starts[level] + node, begin, kind, sums, prefixes, masses, counts, lows, highs)


@inlined
def _descend_plain(indices, offsets, starts, score, prefixes):
    """Replace ``offsets`` [n] into the running sum of the scores by the leaves they fall into, in ``indices``.

    Slots whose index is not −1 are left alone. A leaf with score 0 is never found. Level by level for the whole batch:
    the slots' cache misses overlap.
    """
    nodes = indices  # −1 − node while under way
    for level in range(len(starts) - 3, -1, -1):
        for j in range(len(indices)):
            if nodes[j] >= 0:
                continue
            node, x = np.uint64(-1 - nodes[j]), offsets[j]
            begin = np.uint64(starts[level]) + node * _UWIDTH
            total = prefixes[begin + _UWIDTH - _U1]
            if x >= total:  # rounding left something over
                x = total * (1 - 2.0**-53)
            k = begin + _U4 * (  # the first child whose prefix exceeds x: which four, then which of them
                np.uint64(prefixes[begin + _U3] <= x)
                + np.uint64(prefixes[begin + _U4 + _U3] <= x)
                + np.uint64(prefixes[begin + _U8 + _U3] <= x)
            )
            k += np.uint64(prefixes[k] <= x) + np.uint64(prefixes[k + _U1] <= x) + np.uint64(prefixes[k + _U2] <= x)
            if k > begin:
                x -= prefixes[k - _U1]
            offsets[j] = x
            nodes[j] = -1 - np.int64(node * _UWIDTH + (k - begin))
    for j in range(len(indices)):
        if nodes[j] >= 0:
            continue
        node, x = np.uint64(-1 - nodes[j]), offsets[j]
        begin, end = node * _UWIDTH, min((node + _U1) * _UWIDTH, np.uint64(len(score)))
        s, found = 0.0, begin
        for i in range(begin, end):
            s += score[i]
            found += np.uint64(s <= x)
        if found == end:  # rounding again: the last one with a score
            found -= _U1
            while found > begin and score[found] <= 0:
                found -= _U1
        indices[j] = np.int64(found)


@inlined
def _descend(x, starts, kind, alpha, beta, kappa, score, last_step, origin, half_life, sums, masses, counts):
    """The same for weights that follow from the scores; −1 if the sums held nothing but rounding."""
    node = np.int64(0)
    for level in range(len(starts) - 3, -1, -1):
        begin = node * WIDTH
        node = begin
        for c in range(begin, begin + WIDTH):
            at = starts[level] + c
            mass = masses[at] if kind == DECAYED else 0.0
            w = node_weight(kind, alpha, beta, kappa, sums[at], mass, counts[at])
            if w > 0:
                node = c  # the last child with weight takes what rounding leaves over
                if x < w:
                    break
                x -= w
    found = np.int64(-1)
    for i in range(node * WIDTH, min((node + 1) * WIDTH, len(score))):
        w = leaf_weight(kind, alpha, beta, kappa, i, score, last_step, origin, half_life)
        if w > 0:
            found = i
            if x < w:
                break
            x -= w
    return found


@compiled
def draw_mixture(
    seed, t, use, slot, uniform_share, eligible, words, before, total, alpha, beta, kappa,
    starts, kind, score, last_step, origin, half_life, sums, prefixes, masses, counts, indices, probabilities,
):  # fmt: skip
    """Fill ``indices`` and ``probabilities`` [n]: a slot is uniform over the eligible examples with probability
    ``uniform_share``, else in proportion to the leaf weights, whose sum is ``total`` > 0."""
    for j in range(len(indices)):
        u, v = uniforms(seed, t, slot + j, use)
        i = np.int64(-1)
        if u < uniform_share:
            i = nth_eligible(words, before, min(np.int64(v * eligible), eligible - 1))
        elif kind != PLAIN:
            i = _descend(
                v * total, starts, kind, alpha, beta, kappa, score, last_step, origin, half_life, sums, masses, counts
            )  # fmt: skip
            if i < 0:
                i = nth_eligible(words, before, min(np.int64(v * eligible), eligible - 1))
        indices[j] = i
        probabilities[j] = v * total
    if kind == PLAIN:
        _descend_plain(indices, probabilities, starts, score, prefixes)
    for j in range(len(indices)):
        p = uniform_share / eligible
        if total > 0:
            w = leaf_weight(kind, alpha, beta, kappa, indices[j], score, last_step, origin, half_life)
            p += (1 - uniform_share) * (w / total)
        probabilities[j] = p
