"""What the importance table needs of a strategy, isod's own or one of another package.

A strategy draws slots of a batch from an ``Examples``, and is notified when scores change. To add one, write a class
with all that ``Strategy`` has here, and give it a row of ``isod.sampling.catalogue.STRATEGIES``. A class of another
package needs no row: a sampler names it, ``strategy="my_package.draws:Greedy"``. It declares its properties as class
attributes, each False by default:

* ``accepts_negative_scores``: it draws from scores below 0 too, so that a hold-out model's scores may be subtracted;
* ``draws_in_proportion``: it draws in proportion to the scores, so that their effective sample size is that of a draw;
* ``accepts_prior``: it draws in proportion to ``examples.prior`` × score where that is not empty, and from the first
  draw on where ``config.start`` is "prior";
* ``walks``: a draw's probabilities are those that a walk nears and not its own, so that they give no weights;
* ``gives_weights``: its slots have weights that undo the bias of its draws;
* ``leaves_out``: some examples have probability 0, so that no weights undo the bias;
* ``in_epochs``: it draws without smoothing and floor, as one that extends ``epochs.Sequential`` does.

It reads its settings from the SamplerConfig. One that changes over the run reads ``examples.progress(config.horizon)``:
the table insists on a run_length where ``config.timed``. One that draws in epochs, without replacement, extends
``epochs.Sequential``: it then continues the permutation that the table began with. One that compares ranks may keep
``key_counts``, see ``ranks.ExponentialRank``.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from isod.sampling.examples import Examples, FloatArray, IntArray
from isod.sampling.samplers import SamplerConfig


class Slots(NamedTuple):
    """What was drawn for the n slots of a batch."""

    indices: IntArray  # [n] int64, the examples; the same one may fill several slots
    probabilities: FloatArray  # [n] float64, of each example at this draw
    weights: FloatArray | None = None  # [n] float64, for the examples' losses; None for ones


class Strategy(Protocol):
    """How indices are drawn, once every eligible example has a score.

    A draw depends on the scores and on (seed, t, slot of the batch) alone, so that it can be repeated. It must not cost
    a pass over all N examples.

    Args:
        examples: scores and counts; a strategy reads them and does not change them.
        config: the sampler's settings.
    """

    def __init__(self, examples: Examples, config: SamplerConfig): ...

    def draw(self, t: int, n: int, previous: IntArray) -> Slots:
        """Return the ``n`` slots of draw ``t`` = 0, 1, …; ``previous`` [any] are the indices of draw t − 1."""

    def changed(self, indices: IntArray) -> None:
        """Take note that the scores of these examples [n] have changed."""

    def rebuild(self) -> None:
        """Take note that any score may have changed, after loading; may cost O(N)."""

    def probabilities(self, indices: IntArray) -> FloatArray:
        """Return the probability of each of these examples at the next draw, [n] float64; 0 if it is not eligible."""

    def importance(self) -> FloatArray:
        """Return what probabilities are proportional to before smoothing and floor, [N] float64."""

    def state_dict(self) -> dict[str, Any]:
        """Return what later draws depend on beside the examples: numpy arrays and plain numbers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; ``rebuild`` is called next."""

    @property
    def nbytes(self) -> int:
        """Memory that it uses beside the examples', bytes."""


def uniform_share(config: SamplerConfig, examples: Examples) -> float:
    """Return the share of the next draw's probability that is spread evenly: smoothing and floor together, 0 … 1.

    Smoothing adds k·(1/N²)·Σs to each score (eq. 4.3), which after normalisation is the mixture
    p_i·1/(1 + k/N) + (1/N)·(k/N)/(1 + k/N). The floor mixes in λ/N on top. So neither costs a pass over the table.
    """
    floor = config.floor_at(examples.progress(1.0)) if config.floor_from < 1 else config.floor
    smooth = config.smoothing / examples.eligible
    return floor + (1 - floor) * smooth / (1 + smooth)
