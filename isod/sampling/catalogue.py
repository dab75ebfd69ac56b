"""Every heuristic, reduction, strategy and history: a row each, with the properties that others ask about.

Importing it imports neither torch nor numba: a row names its function or class, which is looked up when it is used. A
``SamplerConfig`` may also name a function or class of somebody else's, ``package.module:function``, without a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from isod.errors import InputError
from isod.plugins import is_outside, resolve

LOGITS, IOU = "logits", "iou"  # what an Outcome may hold beside the losses


@dataclass(frozen=True, kw_only=True)
class Heuristic:
    """How a location scores: ``function(outcome) -> (class_scores, box_scores)``, see scores.heuristics."""

    function: str  # package.module:function
    summary: str
    needs: frozenset[str] = frozenset()  # of LOGITS and IOU; the losses are always there


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How an image's score follows from those of its objects: ``function(object_scores) -> [B]``."""

    function: str
    summary: str


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How indices are drawn once the scores are there: a class, see strategies.base.Strategy."""

    function: str
    summary: str
    accepts_negative_scores: bool = False
    draws_in_proportion: bool = False  # to the scores, so that their effective sample size says how skewed a draw is


@dataclass(frozen=True, kw_only=True)
class History:
    """What an example's scores add up to; the code is ``isod.sampling.kernels.updates``'s constant of that name."""

    summary: str
    keeps_second_number: bool = False  # per example


_HEURISTICS, _REDUCTIONS = "isod.sampling.scores.heuristics", "isod.sampling.scores.reductions"
_EPOCHS, _RANKS, _TREES = (f"isod.sampling.strategies.{name}" for name in ("epochs", "ranks", "trees"))
_BOTH = frozenset({LOGITS, IOU})

HEURISTICS: dict[str, Heuristic] = {
    "loss": Heuristic(function=f"{_HEURISTICS}:loss", summary="−log a, and the box loss"),
    "error": Heuristic(function=f"{_HEURISTICS}:error", summary="−log a, and −log IoU", needs=frozenset({IOU})),
    "uncertainty": Heuristic(
        function=f"{_HEURISTICS}:uncertainty",
        summary="high where a and IoU are near one half",
        needs=frozenset({IOU}),
    ),
    "uncertainty_as_printed": Heuristic(
        function=f"{_HEURISTICS}:uncertainty_as_printed",
        summary="high where a and IoU are near 0 or 1: the thesis's eq. 4.5 to the letter",
        needs=frozenset({IOU}),
    ),
    "asymmetric_uncertainty": Heuristic(
        function=f"{_HEURISTICS}:asymmetric_uncertainty",
        summary="uncertainty that stays above 0 for what is confidently missed",
        needs=frozenset({IOU}),
    ),
    "bounded_error": Heuristic(
        function=f"{_HEURISTICS}:bounded_error", summary="1 − a, and 1 − IoU", needs=frozenset({IOU})
    ),
    "error_vector_norm": Heuristic(
        function=f"{_HEURISTICS}:error_vector_norm", summary="‖p − onehot(y)‖, and 1 − IoU", needs=_BOTH
    ),
    "gradient_norm": Heuristic(
        function=f"{_HEURISTICS}:gradient_norm",
        summary="norm of the class loss's gradient with respect to the logits; no box part",
        needs=frozenset({LOGITS}),
    ),
    "margin": Heuristic(
        function=f"{_HEURISTICS}:margin", summary="softplus of the negative margin of the logits", needs=_BOTH
    ),
    "background_aware": Heuristic(
        function=f"{_HEURISTICS}:background_aware",
        summary="uncertainty, and the loss of confident false positives",
        needs=_BOTH,
    ),
}

REDUCTIONS: dict[str, Reduction] = {
    "mean": Reduction(function=f"{_REDUCTIONS}:mean", summary="mean over objects, the thesis's own"),
    "sum": Reduction(function=f"{_REDUCTIONS}:total", summary="sum over objects"),
    "max": Reduction(function=f"{_REDUCTIONS}:largest", summary="highest object score"),
    "rms": Reduction(function=f"{_REDUCTIONS}:rms", summary="root of the mean of the squared object scores"),
    "area_mean": Reduction(function=f"{_REDUCTIONS}:area_mean", summary="mean over objects of √area · score"),
    "masked_mean": Reduction(function=f"{_REDUCTIONS}:masked_mean", summary="mean over locations, objects ignored"),
    "norm": Reduction(function=f"{_REDUCTIONS}:norm", summary="root of the sum of squares, per location"),
}

STRATEGIES: dict[str, Strategy] = {
    "sequential": Strategy(function=f"{_EPOCHS}:Sequential", summary="a fresh permutation each epoch"),
    "proportional": Strategy(
        function=f"{_TREES}:Proportional",
        summary="with replacement, in proportion to the scores",
        draws_in_proportion=True,
    ),
    "rejection": Strategy(
        function=f"{_TREES}:Rejection",
        summary="a rejection walk per slot of the batch, with proposals in proportion to the scores",
        draws_in_proportion=True,
    ),
    "uniform_rejection": Strategy(
        function=f"{_TREES}:UniformRejection",
        summary="a rejection walk per slot of the batch, with uniform proposals",
        draws_in_proportion=True,
    ),
    "shifted": Strategy(
        function=f"{_TREES}:Shifted",
        summary="in proportion to the scores above the lowest one",
        accepts_negative_scores=True,
        draws_in_proportion=True,
    ),
    "decayed": Strategy(
        function=f"{_TREES}:Decayed",
        summary="in proportion to scores that fade into the mean with age",
        draws_in_proportion=True,
    ),
    "rank": Strategy(
        function=f"{_RANKS}:ExponentialRank",
        summary="probability decays exponentially with the score's rank",
        accepts_negative_scores=True,
    ),
    "linear_rank": Strategy(
        function=f"{_RANKS}:LinearRank",
        summary="probability falls linearly with the score's rank",
        accepts_negative_scores=True,
    ),
    "self_paced": Strategy(
        function=f"{_RANKS}:SelfPaced",
        summary="uniform over the lowest scores, over more of them as the run proceeds",
        accepts_negative_scores=True,
    ),
    "prune": Strategy(
        function=f"{_EPOCHS}:Pruned",
        summary="epochs that leave out a share of the examples below the mean score; the rest of those weigh more",
    ),
    "replace": Strategy(
        function=f"{_EPOCHS}:Replaced", summary="epochs in which the lowest scores give way to the highest"
    ),
}

HISTORIES: dict[str, History] = {
    "latest": History(summary="the last score"),
    "momentum": History(summary="moving average of the scores"),
    "mean": History(summary="mean of all scores"),
    "variance": History(summary="spread of all scores", keeps_second_number=True),
    "closeness": History(summary="closeness of the mean score to one half"),
    "forgetting": History(
        summary="how often the example went from classified right to wrong", keeps_second_number=True
    ),
}


def check_name(what: str, name: object, known: Mapping[str, Any]) -> None:
    """Raise InputError unless it is a name of the catalogue, or has the form package.module:function."""
    if not isinstance(name, str) or (name not in known and not is_outside(name)):
        raise InputError(f"sampler {what} must be one of {', '.join(known)}, or package.module:function, got {name!r}")


@cache
def find_heuristic(name: str) -> Callable[[Any], Any]:
    """Return a heuristic's function. Raises InputError if there is no such."""
    return _find("heuristic", name, HEURISTICS)


@cache
def find_reduction(name: str) -> Callable[[Any], Any]:
    """Return a reduction's function. Raises InputError if there is no such."""
    return _find("reduction", name, REDUCTIONS)


@cache
def find_strategy(name: str) -> Any:
    """Return a strategy's class. Raises InputError if there is no such."""
    return _find("strategy", name, STRATEGIES)


def accepts_negative_scores(strategy: str) -> bool:
    """Whether a strategy can draw from scores below 0; one of somebody else's says so by an attribute of this name."""
    return bool(_property(strategy, "accepts_negative_scores"))


def draws_in_proportion(strategy: str) -> bool:
    """Whether a strategy draws in proportion to the scores; one of somebody else's says so by an attribute."""
    return bool(_property(strategy, "draws_in_proportion"))


def check_available(heuristic: str | None, provides: frozenset[str], detector: str) -> None:
    """Check at start-up that a detector's outcome holds what a heuristic needs; a function of somebody else's may say
    that by an attribute ``needs``.

    Raises:
        InputError: it does not, or there is no such heuristic.
    """
    if heuristic is None:
        return
    function = find_heuristic(heuristic)
    row = HEURISTICS.get(heuristic)
    needs = row.needs if row is not None else frozenset(getattr(function, "needs", ()))
    if missing := sorted(needs - provides):
        fitting = ", ".join(name for name, row in HEURISTICS.items() if row.needs <= provides)
        raise InputError(
            f"detector {detector!r} gives no {' and no '.join(missing)}, which heuristic {heuristic!r} needs: choose a "
            f"sampler with one of {fitting}"
        )


def _find(what: str, name: str, known: Mapping[str, Any]) -> Any:
    row = resolve(what, name, known)
    return resolve(what, row.function, {}) if name in known else row


def _property(strategy: str, name: str) -> Any:
    row = STRATEGIES.get(strategy)
    return getattr(row, name) if row is not None else getattr(find_strategy(strategy), name, False)
