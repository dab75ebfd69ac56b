"""Strategies: how indices are drawn once scores are there (thesis §4.2, §4.2.2, §4.2.6, §4.2.7).

Each works on an ``Examples`` and draws ``n`` slots of draw ``t``; random numbers come from (seed, t, slot) alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from isod.config import SamplerConfig
from isod.errors import InputError
from isod.sampling import kernels
from isod.sampling.examples import Examples, FloatArray, IntArray


@dataclass(frozen=True)
class Slots:
    """Part of a draw: which examples, each with its probability, and the weight its loss should get."""

    indices: IntArray  # [n]
    probabilities: FloatArray  # [n]
    weights: FloatArray | None = None  # [n], where the strategy itself asks for weights


class Strategy(Protocol):
    """What the table needs of a strategy."""

    def __init__(self, examples: Examples, config: SamplerConfig): ...

    def draw(self, t: int, n: int, slot: int, previous: IntArray) -> Slots:
        """Slots ``slot`` … ``slot + n − 1`` of draw ``t``; ``previous`` are the indices of draw t − 1."""

    def changed(self, indices: IntArray) -> None:
        """The scores of these examples have changed."""

    def rebuild(self) -> None:
        """Any score may have changed."""

    def probabilities(self, indices: IntArray) -> FloatArray:
        """[n] probability of each example at the next draw."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @property
    def nbytes(self) -> int: ...


def uniform_share(config: SamplerConfig, eligible: int) -> float:
    """Share of the probability that is spread evenly: smoothing and floor together.

    Smoothing adds k·(1/N²)·Σs to each score (eq. 4.3), which after normalisation is the mixture p_i·1/(1 + k/N) +
    (1/N)·(k/N)/(1 + k/N). The floor mixes in λ/N on top. So neither costs a pass over the table.
    """
    smooth = config.smoothing / eligible
    return config.floor + (1 - config.floor) * smooth / (1 + smooth)


class Sequential:
    """A fresh permutation each epoch, every eligible example exactly once (§4.2.1). Batches run on across epochs."""

    nbytes = 0

    def __init__(self, examples: Examples, config: SamplerConfig):
        self.examples = examples
        self.position = 0  # examples drawn so far

    def draw(self, t: int, n: int, slot: int, previous: IntArray) -> Slots:
        size, taken = self.examples.eligible, []
        if n > size:
            raise InputError(f"a batch drawn without replacement cannot exceed the {size} examples, got {n}")
        while n:
            epoch, place = divmod(self.position, size)
            count = min(n, size - place)
            taken.append(self.examples.order(epoch, place, count))
            self.position += count
            n -= count
        indices = np.concatenate(taken) if len(taken) != 1 else taken[0]
        return Slots(indices, np.full(len(indices), 1 / size))

    def changed(self, indices: IntArray) -> None:
        pass

    def rebuild(self) -> None:
        pass

    def probabilities(self, indices: IntArray) -> FloatArray:
        return np.where(self.examples.last_step[indices] == kernels.INELIGIBLE, 0.0, 1 / self.examples.eligible)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])


class Proportional:
    """p_i = s_i / Σ s with replacement (eq. 4.2), smoothed and floored; uniform while every score is 0.

    A sum tree with 16 children a node: drawing and updating cost O(log N).
    """

    kind = kernels.PLAIN

    def __init__(self, examples: Examples, config: SamplerConfig):
        self.examples = examples
        self.uniform = uniform_share(config, examples.eligible)
        self.origin, self.half_life = 0.0, 1.0  # of the decay, where there is one
        sizes = [-(-examples.size // kernels.WIDTH)]
        while sizes[-1] > 1:
            sizes.append(-(-sizes[-1] // kernels.WIDTH))
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        nodes = int(self.starts[-1])
        self.sums = np.zeros(nodes)
        self.masses = np.zeros(nodes if self.kind == kernels.DECAYED else 0)
        self.counts = np.zeros(nodes if self.kind != kernels.PLAIN else 0, np.int32)
        bounds = nodes if self.kind == kernels.SHIFTED else 0
        self.lows, self.highs = np.zeros(bounds, examples.score.dtype), np.zeros(bounds, examples.score.dtype)
        self.rebuild()

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def changed(self, indices: IntArray) -> None:
        kernels.refresh(indices, self.starts, *self._leaves(), self.sums, self.masses, self.counts, *self._bounds())

    def rebuild(self) -> None:
        kernels.rebuild(self.starts, *self._leaves(), self.sums, self.masses, self.counts, *self._bounds())

    def _leaves(self) -> tuple[Any, ...]:
        return self.kind, self.examples.score, self.examples.last_step, self.origin, self.half_life

    def _bounds(self) -> tuple[Any, Any]:
        return self.lows, self.highs

    def terms(self) -> tuple[float, float, float, float]:
        """(Σ of the leaf weights, alpha, beta, kappa); see kernels.node_weight."""
        return float(self.sums[-1]), 1.0, 0.0, 0.0

    def draw(self, t: int, n: int, slot: int, previous: IntArray) -> Slots:
        return self.mixture(t, n, slot, self.uniform)

    def mixture(self, t: int, n: int, slot: int, uniform: float) -> Slots:
        """Draw with a share ``uniform`` of the probability spread evenly over the eligible examples."""
        total, alpha, beta, kappa = self.terms()
        if total <= 0:
            uniform = 1.0
        e = self.examples
        indices, probabilities = np.empty(n, np.int64), np.empty(n)
        kernels.draw_mixture(
            e.seed, t, kernels.INDEX, slot, uniform, e.eligible, e.words, e.before, total, alpha, beta, kappa,
            self.starts, *self._leaves(), self.sums, self.masses, self.counts, indices, probabilities,
        )  # fmt: skip
        return Slots(indices, probabilities)

    def probabilities(self, indices: IntArray) -> FloatArray:
        total, alpha, beta, kappa = self.terms()
        uniform, e = self.uniform if total > 0 else 1.0, self.examples
        even = np.where(e.last_step[indices] == kernels.INELIGIBLE, 0.0, uniform / e.eligible)
        if total <= 0:
            return even
        weights = np.empty(len(indices))
        kernels.leaf_weights(indices, alpha, beta, kappa, *self._leaves(), weights)
        return even + (1 - uniform) * (weights / total)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


STRATEGIES: dict[str, type[Strategy]] = {
    "sequential": Sequential,
    "proportional": Proportional,
}
