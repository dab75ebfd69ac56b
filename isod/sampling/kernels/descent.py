"""Draws in proportion to the leaf weights of a sum tree."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from isod.sampling.kernels.bitset import eligible_at
from isod.sampling.kernels.compiled import compiled, inlined
from isod.sampling.kernels.philox import uniforms
from isod.sampling.kernels.tree import DECAYED, PLAIN, WIDTH, four, leaf_weight, node_weight

_U0, _U1, _U2, _U3, _U4, _U8, _UWIDTH = (np.uint64(k) for k in (0, 1, 2, 3, 4, 8, WIDTH))


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
                if x >= total:  # so small that it has no neighbour: the first child with a score
                    x = 0.0
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
def _first_beyond(x, one, two, three):
    """Of the running sums 0, one, one + two, …: the last that is at most x, and its place, 0 … 3."""
    b = one + two
    c = b + three
    return c if c <= x else (b if b <= x else (one if one <= x else 0.0)), (
        np.uint64(one <= x) + np.uint64(b <= x) + np.uint64(c <= x)
    )


@inlined
def _descend_weighted(
    w, indices, offsets, starts, kind, alpha, beta, kappa, score, last_step, base, bits, powers, sums, masses, counts
):
    """The same for weights that follow from the scores; −1 if the sums held nothing but rounding."""
    nodes = indices
    for level in range(len(starts) - 3, -1, -1):
        for j in range(len(indices)):
            if nodes[j] >= 0:
                continue
            node, x = np.uint64(-1 - nodes[j]), offsets[j]
            begin = np.uint64(starts[level]) + node * _UWIDTH
            for c in range(WIDTH):
                at = begin + np.uint64(c)
                mass = masses[at] if kind == DECAYED else 0.0
                w[c] = node_weight(kind, alpha, beta, kappa, sums[at], mass, counts[at])
            first, k = _first_beyond(x, four(w, _U0), four(w, _U4), four(w, _U8))  # which four, then which of them
            x -= first
            k *= _U4
            first, more = _first_beyond(x, w[k], w[k + _U1], w[k + _U2])
            x -= first
            k += more
            if w[k] <= 0:  # rounding left something over: the last child with weight takes it
                for c in range(WIDTH):
                    if w[c] > 0:
                        k, x = np.uint64(c), w[c]
            offsets[j] = x
            nodes[j] = -1 - np.int64(node * _UWIDTH + k)
    for j in range(len(indices)):
        if nodes[j] >= 0:
            continue
        node, x = -1 - nodes[j], offsets[j]
        found = np.int64(-1)
        for i in range(node * WIDTH, min((node + 1) * WIDTH, len(score))):
            leaf = leaf_weight(kind, alpha, beta, kappa, i, score, last_step, base, bits, powers)
            if leaf > 0:
                found = i
                if x < leaf:
                    break
                x -= leaf
        indices[j] = found


@compiled
def draw_mixture(
    seed, t, use, uniform_share, eligible, words, before, total, alpha, beta, kappa,
    starts, kind, score, last_step, base, bits, powers, sums, prefixes, masses, counts, weights,
    indices, probabilities,
):  # fmt: skip
    """Fill ``indices`` and ``probabilities`` [n]: a slot is uniform over the eligible examples with probability
    ``uniform_share``, else in proportion to the leaf weights, whose sum is ``total`` > 0."""
    for j in range(len(indices)):
        u, v = uniforms(seed, t, j, use)
        uniform = u < uniform_share
        indices[j] = eligible_at(words, before, eligible, v) if uniform else -1
        probabilities[j] = v * total
    if kind == PLAIN:
        _descend_plain(indices, probabilities, starts, score, prefixes)
    else:
        _descend_weighted(
            weights, indices, probabilities, starts, kind, alpha, beta, kappa, score, last_step, base, bits, powers,
            sums, masses, counts,
        )  # fmt: skip
        for j in range(len(indices)):
            if indices[j] < 0:
                _, v = uniforms(seed, t, j, use)
                indices[j] = eligible_at(words, before, eligible, v)
    for j in range(len(indices)):
        p = uniform_share / eligible
        if total > 0:
            w = leaf_weight(kind, alpha, beta, kappa, indices[j], score, last_step, base, bits, powers)
            p += (1 - uniform_share) * (w / total)
        probabilities[j] = p
