"""How indices are drawn once the scores are there, under the names that a SamplerConfig uses."""

from __future__ import annotations

from isod.sampling.strategies.base import Strategy
from isod.sampling.strategies.epochs import Pruned, Replaced, Sequential
from isod.sampling.strategies.ranks import ExponentialRank, LinearRank, SelfPaced
from isod.sampling.strategies.trees import Decayed, Proportional, Rejection, Shifted, UniformRejection

STRATEGIES: dict[str, type[Strategy]] = {
    "sequential": Sequential,
    "proportional": Proportional,
    "rejection": Rejection,
    "uniform_rejection": UniformRejection,
    "shifted": Shifted,
    "decayed": Decayed,
    "rank": ExponentialRank,
    "linear_rank": LinearRank,
    "self_paced": SelfPaced,
    "prune": Pruned,
    "replace": Replaced,
}
