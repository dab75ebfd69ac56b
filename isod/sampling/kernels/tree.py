"""The sum tree over the scores: its nodes, and what a leaf weighs.

Leaves are the scores. A node holds, over the scored leaves below it: sum of g·score, sum of g (mass), their number, and
lowest and highest score. SHIFTED leaves out scores of 0, from which nothing can be learnt. Arrays that a kind does not
need have length 0.
"""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from isod.sampling.kernels import UNSCORED
from isod.sampling.kernels.compiled import compiled, inlined

WIDTH = 16  # children per node of the sum tree
PLAIN, SHIFTED, DECAYED = 0, 1, 2  # how a leaf's weight follows from its score; see node_weight


@inlined
def node_weight(kind, alpha, beta, kappa, sum_, mass, count):
    """alpha·Σ g·s + beta·Σ g + kappa·n, never below 0.

    PLAIN: Σ s (alpha = 1). SHIFTED: Σ (s − min s) over s ≠ 0 (alpha = 1, kappa = −min s).
    DECAYED: Σ (γ·g·s + (1 − γ·g)·prior) with g = 2^((last step − origin) / half-life), see freshness, and
    γ = 2^((origin − now) / half-life).
    """
    if kind == PLAIN:
        return sum_
    if kind == SHIFTED:
        return max(alpha * sum_ + kappa * count, 0.0)
    return max(alpha * sum_ + beta * mass + kappa * count, 0.0)


@inlined
def freshness(last_step, base, bits, powers):
    """g of a score that came with update ``last_step``: of k = last_step − base, at least 0, the lower ``bits`` bits
    choose a factor among the first 2^bits of ``powers``, the upper bits one among the rest. exp2 would cost more than
    the rest of a leaf's work."""
    k = max(np.int64(last_step) - base, 0)
    size = np.int64(1) << bits
    return powers[np.uint64(k & (size - 1))] * powers[np.uint64(size + (k >> bits))]


@inlined
def leaf_weight(kind, alpha, beta, kappa, i, score, last_step, base, bits, powers):
    if kind == PLAIN:
        return np.float64(score[i])
    if last_step[i] < 0:
        return 0.0
    if kind == SHIFTED:
        return max(score[i] + kappa, 0.0) if score[i] != 0 else 0.0
    g = freshness(last_step[i], base, bits, powers)
    return max(alpha * g * score[i] + beta * g + kappa, 0.0)


@compiled
def leaf_weights(indices, alpha, beta, kappa, kind, score, last_step, base, bits, powers, out):
    """Leaf weight of each of ``indices``, into ``out``."""
    for j in range(len(indices)):
        out[j] = leaf_weight(kind, alpha, beta, kappa, indices[j], score, last_step, base, bits, powers)


@compiled
def weigh(indices, reads_scores, unscored, prior, low, group, limits, score, last_step, leaves):
    """Set the leaf of each of ``indices`` to prior · score, ``unscored`` in place of the score where there is none yet.

    ``prior`` [N], or length 0 for ones. ``group`` [N], or length 0: the score is first clipped between ``low`` and the
    limit of the example's group, but for ``low`` itself. Without ``reads_scores`` an eligible example's leaf is its
    prior.
    """
    for i in indices:
        if last_step[i] < UNSCORED:
            weight = 0.0
        elif not reads_scores:
            weight = 1.0
        else:
            weight = unscored if last_step[i] == UNSCORED else np.float64(score[i])
            if len(group):
                weight = max(min(weight, limits[group[i]]), low)
        if len(prior):
            weight *= prior[i]
        leaves[i] = weight


# Unsigned indices spare numba's check for negative ones, which costs more than the sums themselves.
_U1, _U2, _U3, _U4, _U8, _U12 = (np.uint64(k) for k in (1, 2, 3, 4, 8, 12))


@inlined
def four(x, i):
    """x[i] + … + x[i + 3], of float32 too in float64."""
    return (np.float64(x[i]) + x[i + _U1]) + (np.float64(x[i + _U2]) + x[i + _U3])


@inlined
def _refresh_bottom(node, kind, score, last_step, base, bits, powers, sums, masses, counts, lows, highs):
    begin, end = node * WIDTH, min((node + 1) * WIDTH, len(score))
    if kind == PLAIN:
        if end - begin == WIDTH:
            b = np.uint64(begin)
            sums[node] = (four(score, b) + four(score, b + _U4)) + (four(score, b + _U8) + four(score, b + _U12))
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
            if kind == SHIFTED:
                if score[i] != 0:
                    count += 1
                    s += score[i]
                    low = min(low, score[i])
                    high = max(high, score[i])
            else:
                count += 1
                g = freshness(last_step[i], base, bits, powers)
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
    indices, nodes, starts, kind, score, last_step, base, bits, powers, sums, prefixes, masses, counts, lows, highs
):
    """Recompute every node above ``indices`` from its children: no sum is updated in place, so none drifts.

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
        _refresh_bottom(nodes[j], kind, score, last_step, base, bits, powers, sums, masses, counts, lows, highs)
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
def reweigh(indices, nodes, starts, unscored, prior, low, group, limits, score, last_step, leaves, sums, prefixes):
    """``weigh`` and ``refresh`` of a PLAIN tree whose leaves are not the scores: one call costs less than two."""
    weigh(indices, True, unscored, prior, low, group, limits, score, last_step, leaves)
    unused, whole = sums, last_step
    refresh(
        indices, nodes, starts, PLAIN, leaves, last_step, 0, 0, unused, sums, prefixes, unused, whole, unused, unused
    )


@compiled
def rebuild(starts, kind, score, last_step, base, bits, powers, sums, prefixes, masses, counts, lows, highs):
    """Compute every node: O(N), at construction and after loading."""
    lows[:] = np.inf
    highs[:] = -np.inf
    for node in range(-(-len(score) // WIDTH)):
        _refresh_bottom(node, kind, score, last_step, base, bits, powers, sums, masses, counts, lows, highs)
    for level in range(1, len(starts) - 1):
        for node in range((starts[level] - starts[level - 1]) // WIDTH):
            begin = starts[level - 1] + node * WIDTH
            _refresh_inner(starts[level] + node, begin, kind, sums, prefixes, masses, counts, lows, highs)
