"""What a strategy is to the table: it draws slots from an ``Examples``, and hears which scores have changed."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from isod.sampling.examples import Examples, FloatArray, IntArray
from isod.sampling.samplers import SamplerConfig


class Slots(NamedTuple):
    """What was drawn: which examples, each with its probability, and the weight its loss should get."""

    indices: IntArray  # [n]
    probabilities: FloatArray  # [n]
    weights: FloatArray | None = None  # [n], where the strategy itself asks for weights


class Strategy(Protocol):
    """How indices are drawn, once every eligible example has a score. Random numbers come from (seed, t, slot of the
    batch) alone; nothing costs a pass per draw."""

    def __init__(self, examples: Examples, config: SamplerConfig): ...

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        """The ``n`` slots of draw ``t``; ``previous`` [any] are the indices of draw t − 1."""

    def changed(self, indices: IntArray) -> None:
        """The scores of these examples have changed."""

    def rebuild(self) -> None:
        """Any score may have changed: O(N), after loading."""

    def probabilities(self, indices: IntArray) -> FloatArray:
        """[n] float64, probability of each example at the next draw; 0 where it is not eligible."""

    def importance(self) -> FloatArray:
        """[N] float64, what probabilities are proportional to before smoothing and floor."""

    def state_dict(self) -> dict[str, Any]:
        """What later draws depend on beside the examples: numpy arrays and plain numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    @property
    def nbytes(self) -> int:
        """Memory beside the examples', bytes."""


def uniform_share(config: SamplerConfig, eligible: int) -> float:
    """Share of the probability that is spread evenly: smoothing and floor together.

    Smoothing adds k·(1/N²)·Σs to each score (eq. 4.3), which after normalisation is the mixture
    p_i·1/(1 + k/N) + (1/N)·(k/N)/(1 + k/N). The floor mixes in λ/N on top. So neither costs a pass over the table.
    """
    smooth = config.smoothing / eligible
    return config.floor + (1 - config.floor) * smooth / (1 + smooth)
