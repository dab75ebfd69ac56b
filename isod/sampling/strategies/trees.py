"""Strategies that draw with replacement from a sum tree: proportional, shifted (RHO), decayed, two rejection walks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from isod.sampling.examples import Examples, FloatArray, IntArray
from isod.sampling.kernels import INELIGIBLE, descent, philox, tree
from isod.sampling.samplers import SamplerConfig
from isod.sampling.strategies.base import Slots, uniform_share


class Proportional:
    """p_i = s_i / Σ s with replacement (eq. 4.2), smoothed and floored; uniform while every score is 0.

    A sum tree with 16 children a node: drawing and updating cost O(log N). Where the examples have a prior π, or the
    sampler starts with one, the leaves are π_i · s_i in an array of their own, with s_i = 1 for an example without a
    score if the sampler starts with the prior, else 0.
    """

    kind = tree.PLAIN
    reads_scores = True
    base, bits, powers = 0, 0, np.zeros(0)  # of the decay, where there is one; see tree.freshness

    def __init__(self, examples: Examples, config: SamplerConfig):
        self.examples, self.config = examples, config
        self.weighed = examples.score[:0]  # the leaves, where they are not the scores
        self._unscored = float(config.start == "prior")  # what an example without a score counts as
        self._steady = None if config.floor_from < 1 else uniform_share(config, examples)
        level = examples.size
        sizes: list[int] = []
        while level > 1 or not sizes:
            level = -(-level // tree.WIDTH)
            sizes.append(-(-level // tree.WIDTH) * tree.WIDTH if level > 1 else 1)
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        nodes = int(self.starts[-1])
        self.sums = np.zeros(nodes)
        self.prefixes = np.zeros(nodes if self.kind == tree.PLAIN else 0)  # of the sums, within each node's children
        self.masses = np.zeros(nodes if self.kind == tree.DECAYED else 0)
        self.counts = np.zeros(nodes if self.kind != tree.PLAIN else 0, np.int32)
        bounds = nodes if self.kind == tree.SHIFTED else 0
        self.lows, self.highs = np.zeros(bounds, examples.score.dtype), np.zeros(bounds, examples.score.dtype)
        self._children = np.empty(tree.WIDTH)  # for a draw: weights of the children of a node
        self.rebuild()

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    @property
    def uniform(self) -> float:
        """The share of the next draw's probability that is spread evenly."""
        return uniform_share(self.config, self.examples) if self._steady is None else self._steady

    def changed(self, indices: IntArray) -> None:
        nodes = np.empty_like(indices)
        if len(self.weighed):
            e = self.examples
            tree.reweigh(
                indices, nodes, self.starts, self._unscored, e.prior, self.config.score_low, e.group, e.limits, e.score,
                e.last_step, self.weighed, self.sums, self.prefixes,
            )  # fmt: skip
            return
        tree.refresh(
            indices, nodes, self.starts, *self._leaves(), self.sums, self.prefixes, self.masses, self.counts,
            *self._bounds(),
        )  # fmt: skip

    def rebuild(self) -> None:
        if self.kind == tree.PLAIN and self._weighs:
            self.weighed = np.empty_like(self.examples.score)
            self._weigh()
        else:
            self.weighed = self.examples.score[:0]
        tree.rebuild(self.starts, *self._leaves(), self.sums, self.prefixes, self.masses, self.counts, *self._bounds())

    @property
    def _weighs(self) -> bool:
        e = self.examples
        return len(e.prior) > 0 or len(e.group) > 0 or self.config.start == "prior" or not self.reads_scores

    def _weigh(self) -> None:
        """Compute all leaves from priors and scores."""
        e = self.examples
        tree.weigh(
            np.arange(e.size), self.reads_scores, self._unscored, e.prior, self.config.score_low, e.group, e.limits,
            e.score, e.last_step, self.weighed,
        )  # fmt: skip

    def _leaves(self) -> tuple[Any, ...]:
        leaves = self.weighed if len(self.weighed) else self.examples.score
        return self.kind, leaves, self.examples.last_step, self.base, self.bits, self.powers

    def _bounds(self) -> tuple[Any, Any]:
        return self.lows, self.highs

    def terms(self) -> tuple[float, float, float, float]:
        """Return (Σ of the leaf weights, alpha, beta, kappa); see tree.node_weight."""
        return float(self.sums[-1]), 1.0, 0.0, 0.0

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        return self.mixture(t, n, self.uniform)

    def mixture(self, t: int, n: int, uniform: float) -> Slots:
        """Draw with a share ``uniform`` of the probability spread evenly over the eligible examples."""
        total, alpha, beta, kappa = self.terms()
        if total <= 0:
            uniform = 1.0
        e = self.examples
        indices, probabilities = np.empty(n, np.int64), np.empty(n)
        descent.draw_mixture(
            e.seed, t, philox.INDEX, uniform, e.eligible, e.words, e.before, total, alpha, beta, kappa,
            self.starts, *self._leaves(), self.sums, self.prefixes, self.masses, self.counts, self._children,
            indices, probabilities,
        )  # fmt: skip
        return Slots(indices, probabilities)

    def probabilities(self, indices: IntArray) -> FloatArray:
        total, alpha, beta, kappa = self.terms()
        uniform, e = self.uniform if total > 0 else 1.0, self.examples
        even = np.where(e.last_step[indices] == INELIGIBLE, 0.0, uniform / e.eligible)
        if total <= 0:
            return even
        weights = np.empty(len(indices))
        tree.leaf_weights(indices, alpha, beta, kappa, *self._leaves(), weights)
        return even + (1 - uniform) * (weights / total)

    def importance(self) -> FloatArray:
        _, alpha, beta, kappa = self.terms()
        weights = np.empty(self.examples.size)
        tree.leaf_weights(np.arange(self.examples.size), alpha, beta, kappa, *self._leaves(), weights)
        return weights

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class PriorAlone(Proportional):
    """p_i = π_i / Σ π with replacement: the labels decide, and scores are not read. Uniform without a prior."""

    reads_scores = False

    def changed(self, indices: IntArray) -> None:
        pass


class Shifted(Proportional):
    """Proportional to (s − min s)/(max s − min s) over the scores that are not 0 (RHO, eq. 4.6), at draw time.

    Scores may be negative here, as the hold-out model's score is subtracted from them. The scale cancels in p, and the
    tree keeps the minimum. The lowest example is drawn through smoothing and floor alone, and so is one with a score of
    0, from which nothing can be learnt. If all scores are equal, the draw is uniform. One outlier makes all others
    nearly alike: that is the thesis's form. The strategy ``linear_rank`` avoids it.
    """

    kind = tree.SHIFTED

    def terms(self) -> tuple[float, float, float, float]:
        low, high, count = float(self.lows[-1]), float(self.highs[-1]), int(self.counts[-1])
        if not count or low == high:
            return 0.0, 1.0, 0.0, 0.0
        return float(self.sums[-1]) - count * low, 1.0, 0.0, -low


class Decayed(Proportional):
    """Proportional to γ·s + (1 − γ)·prior with γ = 2^(−age/half-life): an old score fades into the mean (ours).

    The age of a score is the number of updates since it came; the prior is the γ-weighted mean of all scores. Every
    score fades at the same rate, so the tree holds them relative to an origin, and only sums change their factor.
    """

    kind = tree.DECAYED
    REBASE = 64  # half-lives after which the origin moves up: one pass over the table, before 2^age overflows
    FADED = 1000  # half-lives from which on a score counts 2^−1000, however much older it is

    def __init__(self, examples: Examples, config: SamplerConfig):
        self.half_life = float(config.half_life)
        ahead, self.behind = (math.ceil(min(n * self.half_life, 2**31)) for n in (self.REBASE, self.FADED))
        span = ahead + self.behind  # updates between the newest score and the oldest that differs from even older ones
        self.bits = max(span.bit_length() // 2 - 1, 0)
        steps = [np.arange(1 << self.bits), np.arange(0, span + 1, 1 << self.bits) - self.behind]
        self.powers = np.exp2(np.minimum(np.concatenate(steps) / self.half_life, self.FADED))
        self.base = -self.behind
        super().__init__(examples, config)

    @property
    def origin(self) -> int:
        """The update whose score has g = 1."""
        return self.base + self.behind

    def terms(self) -> tuple[float, float, float, float]:
        mass = float(self.masses[-1])
        if mass <= 0:
            return 0.0, 1.0, 0.0, 0.0
        prior = float(self.sums[-1]) / mass
        fade = 2.0 ** ((self.origin - self.examples.version) / self.half_life)
        return int(self.counts[-1]) * prior, fade, -fade * prior, prior

    def changed(self, indices: IntArray) -> None:
        if self.examples.version - self.origin > self.REBASE * self.half_life:
            self.base = self.examples.version - self.behind
            self.rebuild()
        else:
            super().changed(indices)

    def state_dict(self) -> dict[str, Any]:
        return {"origin": self.origin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base = int(state["origin"]) - self.behind


class Rejection(Proportional):
    """Algorithm 5: a walk per slot, with proposals c ∼ q against the example a of that slot in the previous draw.

    a is kept if q(a) > 2·q(c), or if q(c) < u·(q(c) + q(a)) with u ∼ U(0, 1); q is the smoothed distribution of
    eq. 4.2 at draw time. The second rule alone converges to q² exactly, as proposals already follow q. The first one
    sharpens that further if scores span more than a factor of two. Under a lag, the previous batch is the previous
    draw, whose scores may not have arrived yet. A slot that the previous draw did not have accepts its proposal. The
    probabilities of a draw are q of its examples, not those of the walk.
    """

    keep_best = True  # the rule q(a) > 2·q(c)

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        proposal = self.propose(t, n)
        active = previous[:n]
        walkers = len(active)
        chance, _ = self.examples.uniform_pairs(t, n, philox.ACCEPT)
        q_c, q_a = self.probabilities(proposal.indices[:walkers]), self.probabilities(active)
        keep = q_c < chance[:walkers] * (q_c + q_a)
        if self.keep_best:
            keep |= q_a > 2 * q_c
        indices = proposal.indices.copy()
        indices[:walkers] = np.where(keep, active, indices[:walkers])
        return Slots(indices, self.probabilities(indices))

    def propose(self, t: int, n: int) -> Slots:
        return self.mixture(t, n, self.uniform)


class UniformRejection(Rejection):
    """The walk with uniform proposals and without the rule q(a) > 2·q(c): it converges to q exactly (Barker 1965).

    With that rule, a slot could leave a high score only for one of at least half of it. The walk would then draw the
    highest scores far more often than q.
    """

    keep_best = False

    def propose(self, t: int, n: int) -> Slots:
        return self.mixture(t, n, 1.0)
