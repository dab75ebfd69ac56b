"""Strategies that use the order of the scores alone.

Draws are exact: uniform proposals are kept with a probability that follows from the rank. The rank comes from counts
over the upper 19 bits of the scores (2.2 MB, whatever N). Scores that agree to about 0.1 % tie, and ties share their
ranks' weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isod.sampling.examples import Examples, FloatArray, IntArray
from isod.sampling.kernels import INELIGIBLE, ranks
from isod.sampling.samplers import SamplerConfig
from isod.sampling.strategies.base import Slots, uniform_share


class ExponentialRank:
    """p ∝ pressure^(−r/N), r = 0 for the highest score (Loshchilov & Hutter 2015).

    The highest score is ``pressure`` times as likely as the lowest, whatever the scores. Difference from the paper:
    ranks are always up to date.
    """

    kind = ranks.EXPONENTIAL

    def __init__(self, examples: Examples, config: SamplerConfig):
        self.examples, self.config = examples, config
        self.pressure, self.share, self.horizon = config.pressure, config.share, config.horizon
        self.key_counts = np.zeros(ranks.KEY_CELLS, np.int32)  # kept up to date by updates.apply_scores
        self.rebuild()

    @property
    def nbytes(self) -> int:
        return self.key_counts.nbytes

    @property
    def parameter(self) -> float:
        return float(self.pressure)

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        e = self.examples
        indices, probabilities = np.empty(n, np.int64), np.empty(n)
        ranks.draw_ranked(
            e.seed, t, uniform_share(self.config, e), e.eligible, e.words, e.before, self.kind, self.parameter,
            self.key_counts, e.score, e.last_step, indices, probabilities,
        )  # fmt: skip
        return Slots(indices, probabilities)

    def changed(self, indices: IntArray) -> None:
        pass

    def rebuild(self) -> None:
        ranks.rebuild_keys(self.examples.score, self.examples.last_step, self.key_counts)

    def probabilities(self, indices: IntArray) -> FloatArray:
        e, uniform = self.examples, uniform_share(self.config, self.examples)
        even = np.where(e.last_step[indices] == INELIGIBLE, 0.0, uniform / e.eligible)
        total = ranks.rank_total(self.kind, self.parameter, e.eligible)
        return even + (1 - uniform) * self._weights(indices) / total

    def importance(self) -> FloatArray:
        return self._weights(np.arange(self.examples.size))

    def _weights(self, indices: IntArray) -> FloatArray:
        e, out = self.examples, np.empty(len(indices))
        ranks.rank_weights(
            self.kind, self.parameter, e.eligible, self.key_counts, e.score, e.last_step, indices, out
        )  # fmt: skip
        return out

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class LinearRank(ExponentialRank):
    """p ∝ N − r, r = 0 for the highest score: no outlier decides the scale, as it does in RHO (spec §12.9)."""

    kind = ranks.LINEAR


class SelfPaced(ExponentialRank):
    """Uniform over the lowest scores: at first a ``share`` of the examples, later more of them.

    All examples are drawn once the run has made the share ``horizon`` of its draws. Self-paced learning (Kumar et al.
    2010) trains on the examples whose loss is below a threshold that rises with time, until all are included. Here the
    threshold is the quantile that grows in proportion to the examples drawn. The paper stops there and gives no length:
    with a horizon of one half, the second half of the run learns from all, so that the model has not seen the hardest
    examples much less than the others.
    """

    kind = ranks.LOWEST

    @property
    def parameter(self) -> float:
        grown = self.examples.progress(self.horizon) if self.horizon else 0.0
        return max(1.0, (self.share + (1 - self.share) * grown) * self.examples.eligible)


class Excluded(SelfPaced):
    """Uniform over all examples; from the share ``horizon`` of the run's draws on, over all but the highest scores.

    A ``share`` of the examples is left out. These are scored no more, so that the choice is for good, but for one that
    is drawn and comes to score higher, which then changes places with the lowest of them. With the mean of the margin
    as the score it leaves out what Pleiss et al. 2020 find to be labelled wrong; they train a second time without.
    """

    @property
    def parameter(self) -> float:
        warming_up = self.horizon and self.examples.progress(self.horizon) < 1
        return float(self.examples.eligible) if warming_up else max(1.0, (1 - self.share) * self.examples.eligible)
