"""Random numbers and permutations that depend on their arguments alone (Salmon et al. 2011)."""

# mypy: disallow-untyped-defs=False

from __future__ import annotations

import numpy as np

from isod.sampling.kernels.compiled import compiled, inlined

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
    """Two float64 in [0, 1) for slot ``slot`` of draw ``t``: they depend on the four arguments alone."""
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
