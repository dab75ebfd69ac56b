"""Strategies that draw in epochs: sequential, prune and rescale, replace."""

from __future__ import annotations

from typing import Any

import numpy as np

from isod.errors import InputError
from isod.sampling.examples import Examples, FloatArray, IntArray
from isod.sampling.kernels import INELIGIBLE, philox
from isod.sampling.samplers import SamplerConfig
from isod.sampling.strategies.base import Slots


class Sequential:
    """A fresh permutation each epoch: every eligible example exactly once (§4.2.1). A batch may span two epochs."""

    nbytes = 0

    def __init__(self, examples: Examples, config: SamplerConfig):
        self.examples = examples
        self.position = 0  # places drawn so far, over all epochs

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        return self.next_places(n)

    def next_places(self, n: int) -> Slots:
        """Return the next ``n`` examples of the permutations, each with probability 1/M."""
        indices = np.concatenate([part for _, part in self._places(n)])
        return Slots(indices, np.full(n, 1 / self.examples.eligible))

    def check(self, n: int) -> None:
        """Raise InputError if ``n`` examples cannot be drawn without replacement."""
        if n > self.examples.eligible:
            raise InputError(
                f"a batch drawn without replacement cannot exceed the {self.examples.eligible} examples, got {n}"
            )

    def _places(self, n: int) -> list[tuple[int, IntArray]]:
        """Return the next ``n`` places as (epoch, indices), cut where an epoch ends."""
        parts = []
        while n:
            epoch, place = divmod(self.position, self.examples.eligible)
            count = min(n, self.examples.eligible - place)
            parts.append((epoch, self.examples.order(epoch, place, count)))
            self.position += count
            n -= count
        return parts

    def changed(self, indices: IntArray) -> None:
        pass

    def rebuild(self) -> None:
        pass

    def probabilities(self, indices: IntArray) -> FloatArray:
        return self._relative(indices) / self.examples.eligible

    def _relative(self, indices: IntArray) -> FloatArray:
        return np.where(self.examples.last_step[indices] == INELIGIBLE, 0.0, 1.0)

    def importance(self) -> FloatArray:
        return self._relative(np.arange(self.examples.size))

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = int(state["position"])


class Pruned(Sequential):
    """Each epoch leaves out a share r of the examples that score below the mean; the rest of those weigh 1/(1 − r).

    InfoBatch (Qin et al. 2024): the expected gradient stays that of all examples. Pruning stops once the run has made
    the share ``horizon`` of its draws (the paper's annealing, 0.875); with 0 it never stops. Two differences from the
    paper: annealing begins with a draw, not with an epoch, as a run may have few epochs. And an example is left out, or
    not, when its place comes, against the mean at the epoch's start, so that nothing is kept per example. Its score can
    only have changed through a draw of the previous epoch whose scores were late. A draw's probabilities are relative
    to the number of examples that the epoch was expected to keep at its start.
    """

    def __init__(self, examples: Examples, config: SamplerConfig):
        super().__init__(examples, config)
        self.share, self.horizon = config.share, config.horizon
        self.epoch, self.threshold, self.kept = -1, 0.0, float(examples.eligible)

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        indices, probabilities, weights = [], [], []
        while n:
            place = self.position % self.examples.eligible
            (epoch, part), *_ = self._places(min(n, self.examples.eligible - place))
            self._begin(epoch)
            share = self._share(part)
            part = part[self.examples.uniforms_of(part, epoch, philox.PRUNE) >= share]
            keep = 1 - self._share(part)
            indices.append(part)
            probabilities.append(keep / self.kept)
            weights.append(1 / keep)
            n -= len(part)
        return Slots(np.concatenate(indices), np.concatenate(probabilities), np.concatenate(weights))

    def _begin(self, epoch: int) -> None:
        """At an epoch's start, set the threshold to the mean score, past the horizon to −∞. Costs one pass."""
        e = self.examples
        pruning = not self.horizon or e.progress(self.horizon) < 1
        if epoch == self.epoch and pruning == (self.threshold > -np.inf):
            return
        self.epoch = epoch
        self.threshold = float(e.score.sum(dtype=np.float64)) / e.eligible if pruning else -np.inf
        self.kept = e.eligible - self.share * int(((e.score < self.threshold) & (e.last_step >= 0)).sum())

    def _share(self, indices: IntArray) -> FloatArray:
        """Return the probability of each example to be left out in this epoch, [n]."""
        e = self.examples
        return np.where((e.score[indices] < self.threshold) & (e.last_step[indices] >= 0), self.share, 0.0)

    def probabilities(self, indices: IntArray) -> FloatArray:
        return self._relative(indices) / self._relative(np.arange(self.examples.size)).sum()

    def _relative(self, indices: IntArray) -> FloatArray:
        return super()._relative(indices) * (1 - self._share(indices))

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "epoch": self.epoch, "threshold": self.threshold, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.epoch, self.threshold, self.kept = int(state["epoch"]), float(state["threshold"]), float(state["kept"])


class Replaced(Sequential):
    """Each epoch replaces the examples with the lowest scores by those with the highest, which are drawn twice.

    Ioannou et al. 2019; ``share`` of the examples are replaced. The paper's momentum on the importance is the history
    "momentum". Which examples are replaced is decided at an epoch's start, in one pass over the table.
    """

    def __init__(self, examples: Examples, config: SamplerConfig):
        super().__init__(examples, config)
        self.count = min(int(config.share * examples.eligible), examples.eligible // 2)
        self.epoch = -1
        self.lowest, self.highest = np.zeros(0, np.int64), np.zeros(0, np.int64)  # lowest sorted; highest[i] for it

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        return self.lowest.nbytes + self.highest.nbytes

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        parts, probabilities = [], []
        while n:
            place = self.position % self.examples.eligible
            (epoch, part), *_ = self._places(min(n, self.examples.eligible - place))
            self._begin(epoch)
            parts.append(self._replaced(part))
            probabilities.append(self.probabilities(parts[-1]))
            n -= len(part)
        return Slots(np.concatenate(parts), np.concatenate(probabilities))

    def _begin(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        self.epoch = epoch
        eligible = np.flatnonzero(self.examples.last_step != INELIGIBLE)
        order = eligible[np.argsort(self.examples.score[eligible], kind="stable")]
        self.lowest = np.sort(order[: self.count])
        self.highest = order[len(order) - self.count :]

    def _replaced(self, indices: IntArray) -> IntArray:
        if not self.count:
            return indices
        at = np.searchsorted(self.lowest, indices).clip(max=self.count - 1)
        return np.where(self.lowest[at] == indices, self.highest[at], indices)

    def _relative(self, indices: IntArray) -> FloatArray:
        """Return 0 for the replaced, 2 for those that are drawn twice, else 1."""
        low, high = np.isin(indices, self.lowest), np.isin(indices, self.highest)
        return super()._relative(indices) * (1.0 - low + high)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "epoch": self.epoch, "lowest": self.lowest, "highest": self.highest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.epoch = int(state["epoch"])
        self.lowest, self.highest = state["lowest"].copy(), state["highest"].copy()
