"""Every heuristic, reduction, strategy, history, prior and selection: a row each, with the properties others ask about.

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
    weighs_classes: bool = False  # by how rare they are among the training images


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How indices are drawn once every example has a score: a class, see strategies.base.Strategy."""

    function: str
    summary: str
    source: str
    accepts_negative_scores: bool = False  # the sampler may subtract a hold-out model's scores
    draws_in_proportion: bool = False  # to the scores, so that their effective sample size says how skewed a draw is
    accepts_prior: bool = False  # draws in proportion to prior × score, and can start before every example has a score
    walks: bool = False  # towards the probabilities that a draw reports, so that weights 1/(N·p) would be biased
    gives_weights: bool = False  # for the losses, which undo the bias of its draws
    leaves_out: bool = False  # examples for good, or for an epoch, so that no weight undoes the bias
    in_epochs: bool = False  # draws places of a permutation, without smoothing and floor


@dataclass(frozen=True, kw_only=True)
class History:
    """What an example's scores add up to; the code is ``isod.sampling.kernels.updates``'s constant of that name."""

    summary: str
    source: str
    keeps_second_number: bool = False  # per example


@dataclass(frozen=True, kw_only=True)
class Prior:
    """How likely an example is before its score: ``function(labels, config) -> [N]``, see isod.sampling.priors; or a
    class, of a prior that follows the training."""

    function: str
    summary: str
    source: str
    observes: str = ""  # of the drawn objects, by a class: error, 1 − a, or loss, −log a


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which of a step's candidates train: ``function(scores, count, rng) -> Selected``, see isod.sampling.selection."""

    function: str
    summary: str
    source: str
    accepts_negative_scores: bool = False  # the sampler may subtract a hold-out model's scores


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
    "class_max": Reduction(
        function=f"{_REDUCTIONS}:class_max",
        summary="sum over classes of the highest object score, rare classes weighing more",
        source="ours; the weights of Gupta et al. 2019",
        weighs_classes=True,
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
        accepts_negative_scores=True,
        in_epochs=True,
    ),
    "proportional": Strategy(
        function=f"{_TREES}:Proportional",
        summary="with replacement, in proportion to the scores",
        source="thesis eqs. 4.2 and 4.3",
        draws_in_proportion=True,
        accepts_prior=True,
    ),
    "prior": Strategy(
        function=f"{_TREES}:PriorAlone",
        summary="with replacement, in proportion to the prior; scores are not read",
        source="Gupta et al. 2019",
        draws_in_proportion=True,
        accepts_prior=True,
    ),
    "rejection": Strategy(
        function=f"{_TREES}:Rejection",
        summary="a rejection walk per slot of the batch, with proposals in proportion to the scores",
        source="thesis §4.2.7, algorithm 5",
        draws_in_proportion=True,
        accepts_prior=True,
        walks=True,
    ),
    "uniform_rejection": Strategy(
        function=f"{_TREES}:UniformRejection",
        summary="a rejection walk per slot of the batch, with uniform proposals",
        source="ours; Barker 1965",
        draws_in_proportion=True,
        accepts_prior=True,
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
        leaves_out=True,
    ),
    "exclude": Strategy(
        function=f"{_RANKS}:Excluded",
        summary="uniform over all but the highest scores, once a share of the run is done",
        source="Pleiss et al. 2020",
        accepts_negative_scores=True,
        leaves_out=True,
    ),
    "prune": Strategy(
        function=f"{_EPOCHS}:Pruned",
        summary="epochs that leave out a share of the examples below the mean score; the rest of those weigh more",
        source="Qin et al. 2024",
        gives_weights=True,
        in_epochs=True,
    ),
    "replace": Strategy(
        function=f"{_EPOCHS}:Replaced",
        summary="epochs in which the lowest scores give way to the highest",
        source="Ioannou et al. 2019",
        leaves_out=True,
        in_epochs=True,
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
        summary="how often the example was classified wrong at first, and went from right to wrong since",
        source="Toneva et al. 2019, algorithm 1",
        keeps_second_number=True,
    ),
}

_PRIORS = "isod.sampling.priors"
PRIORS: dict[str, Prior] = {
    "repeat_factor": Prior(
        function=f"{_PRIORS}:repeat_factor",
        summary="the rarest class of the image decides, by the share of images with it",
        source="Gupta et al. 2019 (LVIS), the factor without its threshold",
    ),
    "instance_repeat_factor": Prior(
        function=f"{_PRIORS}:instance_repeat_factor",
        summary="likewise, by the geometric mean of the shares of images and of objects",
        source="Yaman et al. 2023 (IRFS), the factor without its threshold",
    ),
    "empties": Prior(
        function=f"{_PRIORS}:empties",
        summary="images without an object weigh less, all others alike",
        source="ours: a share of empty images as yolov5 advises it",
    ),
    "segments": Prior(
        function=f"{_PRIORS}:segments",
        summary="images of long sequences weigh less",
        source="ours: repeat factors of sequences",
    ),
    "class_adaptive": Prior(
        function=f"{_PRIORS}:ClassAdaptive",
        summary="rare classes that the model gets wrong, and images without an object while it sees objects there",
        source="ours",
        observes="error",
    ),
    "progress": Prior(
        function=f"{_PRIORS}:Progress",
        summary="classes at sizes whose loss falls",
        source="ours; learning progress after Graves et al. 2017",
        observes="loss",
    ),
}

_SELECTIONS = "isod.sampling.selection"
SELECTIONS: dict[str, Selection] = {
    "top": Selection(
        function=f"{_SELECTIONS}:top",
        summary="those with the highest scores",
        source="Kawaguchi & Lu 2020; Mindermann et al. 2022",
        accepts_negative_scores=True,
    ),
    "proportional": Selection(
        function=f"{_SELECTIONS}:proportional",
        summary="with replacement, in proportion to the scores, with weights that undo the bias",
        source="Katharopoulos & Fleuret 2018, algorithm 1",
    ),
    "percentile": Selection(
        function=f"{_SELECTIONS}:percentile",
        summary="without replacement, in proportion to a power of the score's percentile",
        source="Jiang et al. 2019 (selective backprop)",
        accepts_negative_scores=True,
    ),
}

_FORM = re.compile(r"[^\s:]+:[^\s:]+")  # package.module:function
# What a strategy's class must have, and the properties that one of another package may declare.
STRATEGY_METHODS = (
    "draw", "changed", "rebuild", "probabilities", "importance", "state_dict", "load_state_dict", "nbytes",
)  # fmt: skip
STRATEGY_PROPERTIES = (
    "accepts_negative_scores", "draws_in_proportion", "accepts_prior", "walks", "gives_weights", "leaves_out",
    "in_epochs",
)  # fmt: skip
# Of a prior that follows the training.
PRIOR_METHODS = ("prior", "observe", "close_window", "state_dict", "load_state_dict")
OBSERVED = ("error", "loss")


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


@cache
def find_prior(name: str) -> Callable[[Any, Any], Any]:
    """Return a prior's function, or the class of one that follows the training.

    Raises:
        InputError: there is no such, or a class observes something else than OBSERVED or lacks one of PRIOR_METHODS.
    """
    found = _find("prior", name, PRIORS)
    if name in PRIORS:
        return found
    observes = getattr(found, "observes", "")
    if observes and observes not in OBSERVED:
        raise InputError(f"prior {name!r} observes {observes!r}: it must be one of {', '.join(OBSERVED)}, or ''")
    if observes and (missing := [method for method in PRIOR_METHODS if not hasattr(found, method)]):
        raise InputError(
            f"prior {name!r} has no {', '.join(missing)}: one that follows the training is a class with what "
            "isod.sampling.priors.ClassAdaptive has"
        )
    return found


@cache
def find_selection(name: str) -> Callable[[Any, int, Any], Any]:
    """Return a selection's function. Raises InputError if there is no such."""
    return _find("selection", name, SELECTIONS)


def weighs_classes(reduction: str) -> bool:
    """Return whether a reduction reads weights of the classes; of another package's function, that attribute."""
    row = REDUCTIONS.get(reduction)
    return row.weighs_classes if row is not None else bool(getattr(find_reduction(reduction), "weighs_classes", False))


def prior_observes(prior: str | None) -> str:
    """Return what a prior wants to know of the drawn objects: error, loss, or nothing; of another package's class, its
    attribute ``observes``."""
    if prior is None:
        return ""
    row = PRIORS.get(prior)
    return row.observes if row is not None else str(getattr(find_prior(prior), "observes", ""))


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
