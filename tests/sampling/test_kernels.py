"""The table's random numbers, its permutations and its bit set, against published and brute-force answers."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy import stats

import isod
from isod.sampling.examples import Examples
from isod.sampling.kernels import bitset, philox, ranks


@numba.njit
def words(counter, key):
    return philox.philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1])


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers of Random123's philox4x32-10
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    assert tuple(int(word) for word in words(counter, key)) == expected


def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    out = np.empty(size, np.int64)
    philox.permuted(np.uint64(seed), epoch, 0, size, size, out)
    return out


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_each_epoch_is_a_permutation_and_another_one(size):
    first, second = permutation(7, 0, size), permutation(7, 1, size)
    assert np.array_equal(np.sort(first), np.arange(size))
    if size >= 1000:
        assert (first == second).mean() < 0.02
        assert (first == np.arange(size)).mean() < 0.02


def test_permutations_of_four_and_five_are_uniform():
    for size in (4, 5):
        orders = {order: 0 for order in itertools.permutations(range(size))}
        trials = 120 * len(orders)
        for epoch in range(trials):
            orders[tuple(permutation(3, epoch, size))] += 1
        assert stats.chisquare(list(orders.values())).pvalue > 1e-4


def test_places_and_neighbours_of_a_large_permutation_look_uniform():
    size = 60_000
    order = permutation(11, 5, size)
    blocks = np.histogram2d(order, np.arange(size), bins=20)[0]
    assert stats.chisquare(blocks.ravel()).pvalue > 1e-4
    steps = np.diff(order) % size
    assert stats.kstest(steps / size, "uniform").pvalue > 1e-4


def test_uniforms_are_uniform_and_differ_by_every_argument():
    u, v = np.empty(50_000), np.empty(50_000)
    philox.uniform_pairs(np.uint64(0), 0, philox.INDEX, u, v)
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert stats.kstest(v, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.02
    for seed, t, use in [(1, 0, philox.INDEX), (0, 1, philox.INDEX), (0, 2**32, philox.INDEX), (2**32, 0, 0),
                         (0, 0, philox.ACCEPT)]:  # fmt: skip
        other, _ = np.empty(50_000), np.empty(50_000)
        philox.uniform_pairs(np.uint64(seed), t, use, other, v)
        assert abs(np.corrcoef(u, other)[0, 1]) < 0.02


@pytest.mark.parametrize("size", [1, 63, 64, 65, 511, 512, 513, 5000])
def test_nth_eligible(size):
    rng = np.random.default_rng(size)
    eligible = np.flatnonzero(rng.random(size) < 0.3)
    eligible = eligible if len(eligible) else np.array([size - 1])
    examples = Examples(size, seed=0, eligible=rng.permutation(eligible), extra=False, signed=False)
    places = np.arange(len(eligible))
    bitset.all_nth_eligible(examples.words, examples.before, places)
    assert np.array_equal(places, eligible)


def test_rank_counts_follow_the_order_of_the_scores():
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.normal(0, 5, 300), [0.0, 0.0]]).astype(np.float32)
    step = np.zeros(len(score), np.int32)
    counts = np.zeros(ranks.KEY_CELLS, np.int32)
    ranks.rebuild_keys(score, step, counts)
    out = np.empty(len(score))
    ranks.rank_weights(ranks.LINEAR, 0.0, len(score), counts, score, step, np.arange(len(score)), out)
    lowest_first = np.concatenate([[300, 301], np.argsort(score[:300], kind="stable")])  # 0: nothing to learn
    assert np.all(np.diff(out[lowest_first]) >= 0)
    assert out[300] == out[301] < out[:300].min()
    assert out.sum() == pytest.approx((len(score) + 1) / 2)


DRAW = """
import numpy as np
from isod.sampling.kernels import ranks
indices, counts = np.zeros(4, np.int64), np.zeros(ranks.KEY_CELLS, np.int32)
nobody = np.zeros(0, np.uint64), np.zeros(0, np.int32)
ranks.draw_ranked(np.uint64(0), 0, 1.0, 1000, *nobody, ranks.LINEAR, 0.0, counts,
                  np.zeros(1000), np.zeros(1000, np.int32), indices, np.zeros(4))
print(indices, sum(ranks.draw_ranked.stats.cache_hits.values()))
"""


def test_a_kept_function_is_compiled_anew_when_one_that_it_calls_from_another_file_has_changed(tmp_path):
    package = tmp_path / "isod"
    shutil.copytree(Path(isod.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))

    def draw() -> tuple[str, int]:
        run = subprocess.run([sys.executable, "-c", DRAW], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
                             check=True, capture_output=True, text=True)  # fmt: skip
        indices, _, hits = run.stdout.strip().rpartition(" ")
        return indices, int(hits)

    before, hits = draw()
    assert hits == 0
    assert draw() == (before, 1)
    philox = package / "sampling/kernels/philox.py"
    philox.write_text(philox.read_text().replace("return c0, c1, c2, c3", "return c0, c1, c3, c2"))
    after, hits = draw()
    assert hits == 0
    assert after != before
