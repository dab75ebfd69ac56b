"""Every heuristic, reduction, strategy and history: a row each, with the properties that others ask about.

Importing this module imports neither torch nor numba: a row names its function or class, which is imported when it is
used. A ``SamplerConfig`` may also name a function or class of another package, ``package.module:function``. It needs no
row here; its properties are attributes of the function or class, under the names that the fields below have.

To add one of isod's own: write the function or class, give it a row here, and test it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from isod.errors import InputError
from isod.plugins import is_outside, resolve

LOGITS, IOU = "logits", "iou"  # what an Outcome may hold beside the losses


@dataclass(frozen=True, kw_only=True)
class Heuristic:
    """How a location scores: ``function(outcome) -> (class_scores, box_scores)``, see scores.heuristics."""

    function: str  # package.module:function
    summary: str  # what it computes, in a phrase; a is the probability of the true class
    source: str  # where it is from, in a phrase
    needs: frozenset[str] = frozenset()  # of LOGITS and IOU; the losses are always there


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How an image's score follows from those of its objects: ``function(object_scores) -> [B]``."""

    function: str
    summary: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How indices are drawn once every example has a score: a class, see strategies.base.Strategy."""

    function: str
    summary: str
    source: str
    accepts_negative_scores: bool = False  # the sampler may subtract a hold-out model's scores
    draws_in_proportion: bool = False  # to the scores, so that their effective sample size says how skewed a draw is
    walks: bool = False  # towards the probabilities that a draw reports, so that weights 1/(N·p) would be biased


@dataclass(frozen=True, kw_only=True)
class History:
    """What an example's scores add up to; the code is ``isod.sampling.kernels.updates``'s constant of that name."""

    summary: str
    source: str
    keeps_second_number: bool = False  # per example


_HEURISTICS, _REDUCTIONS = "isod.sampling.scores.heuristics", "isod.sampling.scores.reductions"
_EPOCHS, _RANKS, _TREES = (f"isod.sampling.strategies.{name}" for name in ("epochs", "ranks", "trees"))
_BOTH = frozenset({LOGITS, IOU})

HEURISTICS: dict[str, Heuristic] = {
    "loss": Heuristic(
        function=f"{_HEURISTICS}:loss",
        summary="−log a, and the box loss",
        source="thesis §4.2.3; Johansson & Lindberg 2022",
    ),
    "error": Heuristic(
        function=f"{_HEURISTICS}:error", summary="−log a, and −log IoU", source="thesis eq. 4.4", needs=frozenset({IOU})
    ),
    "uncertainty": Heuristic(
        function=f"{_HEURISTICS}:uncertainty",
        summary="high where a and IoU are near one half",
        source="thesis §4.2.5.1, the form of its text",
        needs=frozenset({IOU}),
    ),
    "uncertainty_as_printed": Heuristic(
        function=f"{_HEURISTICS}:uncertainty_as_printed",
        summary="high where a and IoU are near 0 or 1: the thesis's eq. 4.5 to the letter",
        source="thesis eq. 4.5 to the letter",
        needs=frozenset({IOU}),
    ),
    "asymmetric_uncertainty": Heuristic(
        function=f"{_HEURISTICS}:asymmetric_uncertainty",
        summary="uncertainty that stays above 0 for what is confidently missed",
        source="proposed in thesis chapter 7; form ours",
        needs=frozenset({IOU}),
    ),
    "bounded_error": Heuristic(
        function=f"{_HEURISTICS}:bounded_error",
        summary="1 − a, and 1 − IoU",
        source="Chang et al. 2017, without its history",
        needs=frozenset({IOU}),
    ),
    "error_vector_norm": Heuristic(
        function=f"{_HEURISTICS}:error_vector_norm",
        summary="‖p − onehot(y)‖, and 1 − IoU",
        source="Paul et al. 2021, definition 2.3",
        needs=_BOTH,
    ),
    "gradient_norm": Heuristic(
        function=f"{_HEURISTICS}:gradient_norm",
        summary="norm of the class loss's gradient with respect to the logits; no box part",
        source="Katharopoulos & Fleuret 2018, eq. 20",
        needs=frozenset({LOGITS}),
    ),
    "margin": Heuristic(
        function=f"{_HEURISTICS}:margin",
        summary="softplus of the negative margin of the logits",
        source="Pleiss et al. 2020; thesis chapter 3",
        needs=_BOTH,
    ),
    "background_aware": Heuristic(
        function=f"{_HEURISTICS}:background_aware",
        summary="uncertainty, and the loss of confident false positives",
        source="proposed in thesis §6.3.2 and chapter 7; form ours",
        needs=_BOTH,
    ),
}

REDUCTIONS: dict[str, Reduction] = {
    "mean": Reduction(
        function=f"{_REDUCTIONS}:mean", summary="mean over objects, the thesis's own", source="thesis §4.2.4"
    ),
    "sum": Reduction(function=f"{_REDUCTIONS}:total", summary="sum over objects", source="thesis §4.2.4"),
    "max": Reduction(function=f"{_REDUCTIONS}:largest", summary="highest object score", source="thesis §4.2.4"),
    "rms": Reduction(
        function=f"{_REDUCTIONS}:rms", summary="root of the mean of the squared object scores", source="thesis §4.2.4"
    ),
    "area_mean": Reduction(
        function=f"{_REDUCTIONS}:area_mean", summary="mean over objects of √area · score", source="thesis §4.2.4"
    ),
    "masked_mean": Reduction(
        function=f"{_REDUCTIONS}:masked_mean",
        summary="mean over locations, objects ignored",
        source="thesis eq. 4.4 as printed",
    ),
    "norm": Reduction(
        function=f"{_REDUCTIONS}:norm",
        summary="root of the sum of squares, per location",
        source="Katharopoulos & Fleuret 2018",
    ),
}

STRATEGIES: dict[str, Strategy] = {
    "sequential": Strategy(
        function=f"{_EPOCHS}:Sequential",
        summary="a fresh permutation each epoch",
        source="thesis §4.2.1",
    ),
    "proportional": Strategy(
        function=f"{_TREES}:Proportional",
        summary="with replacement, in proportion to the scores",
        source="thesis eqs. 4.2 and 4.3",
        draws_in_proportion=True,
    ),
    "rejection": Strategy(
        function=f"{_TREES}:Rejection",
        summary="a rejection walk per slot of the batch, with proposals in proportion to the scores",
        source="thesis §4.2.7, algorithm 5",
        draws_in_proportion=True,
        walks=True,
    ),
    "uniform_rejection": Strategy(
        function=f"{_TREES}:UniformRejection",
        summary="a rejection walk per slot of the batch, with uniform proposals",
        source="ours; Barker 1965",
        draws_in_proportion=True,
        walks=True,
    ),
    "shifted": Strategy(
        function=f"{_TREES}:Shifted",
        summary="in proportion to the scores above the lowest one",
        source="thesis eq. 4.6",
        accepts_negative_scores=True,
        draws_in_proportion=True,
    ),
    "decayed": Strategy(
        function=f"{_TREES}:Decayed",
        summary="in proportion to scores that fade into the mean with age",
        source="ours",
        draws_in_proportion=True,
    ),
    "rank": Strategy(
        function=f"{_RANKS}:ExponentialRank",
        summary="probability decays exponentially with the score's rank",
        source="Loshchilov & Hutter 2015",
        accepts_negative_scores=True,
    ),
    "linear_rank": Strategy(
        function=f"{_RANKS}:LinearRank",
        summary="probability falls linearly with the score's rank",
        source="ours",
        accepts_negative_scores=True,
    ),
    "self_paced": Strategy(
        function=f"{_RANKS}:SelfPaced",
        summary="uniform over the lowest scores, over more of them as the run proceeds",
        source="Kumar et al. 2010",
        accepts_negative_scores=True,
    ),
    "prune": Strategy(
        function=f"{_EPOCHS}:Pruned",
        summary="epochs that leave out a share of the examples below the mean score; the rest of those weigh more",
        source="Qin et al. 2024",
    ),
    "replace": Strategy(
        function=f"{_EPOCHS}:Replaced",
        summary="epochs in which the lowest scores give way to the highest",
        source="Ioannou et al. 2019",
    ),
}

HISTORIES: dict[str, History] = {
    "latest": History(summary="the last score", source="thesis §4.2"),
    "momentum": History(summary="moving average of the scores", source="Ioannou et al. 2019"),
    "mean": History(summary="mean of all scores", source="Chang et al. 2017"),
    "variance": History(
        summary="spread of all scores", source="Chang et al. 2017, prediction variance", keeps_second_number=True
    ),
    "closeness": History(
        summary="closeness of the mean score to one half", source="Chang et al. 2017, threshold closeness"
    ),
    "forgetting": History(
        summary="how often the example went from classified right to wrong",
        source="Toneva et al. 2019, algorithm 1",
        keeps_second_number=True,
    ),
}

_FORM = re.compile(r"[^\s:]+:[^\s:]+")  # package.module:function
# What a strategy's class must have, and the properties that one of another package may declare.
STRATEGY_METHODS = (
    "draw", "changed", "rebuild", "probabilities", "importance", "state_dict", "load_state_dict", "nbytes",
)  # fmt: skip
STRATEGY_PROPERTIES = ("accepts_negative_scores", "draws_in_proportion", "walks")


def check_name(what: str, name: object, known: Mapping[str, Any]) -> None:
    """Check that a setting of a sampler is a name of the catalogue, or has the form package.module:function.

    Whether another package has that function is checked when a run starts, not here.

    Raises:
        InputError: it is neither; with the nearest name of the catalogue.
    """
    if isinstance(name, str) and (name in known or _FORM.fullmatch(name)):
        return
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"sampler {what} must be one of {', '.join(known)}, or package.module:function, got {name!r}{guess}"
    )


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
    """Return a strategy's class. Raises InputError if there is no such, or if a class lacks what a strategy has."""
    found = _find("strategy", name, STRATEGIES)
    if missing := [method for method in STRATEGY_METHODS if not hasattr(found, method)]:
        raise InputError(
            f"strategy {name!r} has no {', '.join(missing)}: a strategy is a class with all that "
            "isod.sampling.strategies.base.Strategy has"
        )
    return found


def strategy_properties(strategy: str) -> Strategy:
    """Return the row of a strategy; one of another package has its properties as class attributes, False by default.

    Raises:
        InputError: there is no such strategy.
    """
    if not is_outside(strategy):
        return STRATEGIES[strategy]
    found = find_strategy(strategy)
    flags = {name: bool(getattr(found, name, False)) for name in STRATEGY_PROPERTIES}
    return Strategy(function=strategy, summary=(found.__doc__ or "").strip().partition("\n")[0], source="", **flags)


def check_available(heuristic: str | None, provides: frozenset[str], detector: str) -> None:
    """Check that a detector's outcome holds what a heuristic needs; for the start of a run.

    Args:
        heuristic: a name of HEURISTICS, package.module:function, or None. A function of another package says what it
            needs by an attribute ``needs``, for example ``{"logits"}``.
        provides: of LOGITS and IOU; DetectorModel.provides.
        detector: its name, for the message.
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
    return resolve(what, name, {own: row.function for own, row in known.items()})
