"""How training examples are drawn, and the samplers that have a name: those of the thesis and of the related work."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from isod.errors import require
from isod.plugins import is_outside
from isod.sampling.catalogue import (
    HEURISTICS,
    HISTORIES,
    PRIORS,
    REDUCTIONS,
    SELECTIONS,
    STRATEGIES,
    Strategy,
    check_name,
)

STARTS = ("scores", "prior")
SCORERS = ("detector", "predictor")

SCORE = {"decides": "score"}  # metadata of a field that decides how examples score, not how they are drawn
LABEL = {"decides": "nothing"}  # metadata of a field that is a name or a note


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How training examples are drawn: heuristic + reduction + strategy + smoothing + task weights (spec §2).

    All numbers are dimensionless. A field decides what is drawn from given scores, unless its metadata says that it
    decides the scores, or nothing.

    Raises:
        InputError: on construction, if a name is unknown or a number is out of its range. Whether a function of another
            package exists is checked when a run starts.
    """

    name: str = field(metadata=LABEL)
    # A key of the catalogue's HEURISTICS, or package.module:function; None for a sampler that reads no scores.
    heuristic: str | None = field(default=None, metadata=SCORE)
    reduction: str = field(default="mean", metadata=SCORE)  # a key of REDUCTIONS (§4.2.4), or package.module:function
    strategy: str = "proportional"  # a key of STRATEGIES, or package.module:class
    class_weight: float = field(default=1.0, metadata=SCORE)  # w_cls: weight of the class part of the sample score
    # w_reg: weight of the box part; 0 is the thesis's "regression ignored" (§4.3)
    box_weight: float = field(default=1.0, metadata=SCORE)
    smoothing: float = 1.0  # multiple of eq. 4.3's bias (1/N²)Σs that is added to every score at draw time
    floor: float = 0.0  # λ: share of the probability that is uniform, λ/N + (1 − λ)·p_i
    history: str = "latest"  # what an example's scores add up to; a key of HISTORIES
    momentum: float = 0.0  # of history "momentum": importance = momentum · importance + (1 − momentum) · score
    holdout: bool = False  # subtract the hold-out model's score of each example (RHO, §4.2.6)
    subset: str = ""  # a file of `isod select` (keep.csv): no other example is drawn; "" for all
    weight_exponent: float = 0.0  # the example's loss is multiplied by (1/(N·p))^exponent; 1 undoes the bias of drawing
    half_life: float = 1000.0  # of strategy "decayed": updates after which a score counts half, the mean score half
    pressure: float = 100.0  # of strategy "rank": how many times as likely the highest score is as the lowest
    # Of the examples: pruned below the mean ("prune"), replaced ("replace"), let in ("self_paced"), out ("exclude").
    share: float = 0.5
    # Of the run's draws: when "self_paced" has let in all, when "prune" stops pruning, 0: never; when "exclude" begins.
    horizon: float = 0.0
    # A key of PRIORS, or package.module:function, of the labels: draws are in proportion to prior × score.
    prior: str | None = None
    prior_exponent: float = 0.5  # e of a prior: a class in a share f of the images weighs (t/f)^e, at least 1
    prior_threshold: float = 1.0  # t of a prior: classes in a larger share of the images weigh 1
    prior_cap: float = 16.0  # highest weight of a class in a prior
    empty_weight: float = 0.25  # weight of an image without an object in a prior; segments and progress do not read it
    # scores: epochs in sequence until all have a score; prior: at once, an example without a score counting 1.
    start: str = "scores"
    score_low: float = 0.25  # a score below counts as this one where score_quantile < 1
    # Below 1, a score counts as at most this quantile of the scores of images with the same rarest class.
    score_quantile: float = 1.0
    window: int = 100  # updates between two computations of these quantiles, and of a prior that follows the training
    empty_least: float = 0.05  # of prior class_adaptive: lowest weight of an image without an object
    floor_from: float = 1.0  # share of the run after which the floor moves from λ, in a straight line …
    floor_until: float = 1.0  # … share of the run by which it has reached floor_end
    floor_end: float = 1.0  # the floor's last value; 1 is uniform
    # m: a step draws m batches, scores them in a forward pass without gradients, and trains on one batch of them.
    candidates: int = 1
    selection: str = "top"  # which of the candidates train: a key of SELECTIONS, or package.module:function
    scorer: str = "detector"  # what scores the candidates: the detector, or predictor, a small network beside it
    # Notes that change no run and are recorded with none:
    summary: str = field(default="", compare=False, metadata=LABEL)  # what it does, in one plain sentence
    source: str = field(default="", compare=False, metadata=LABEL)  # where it is from, in a phrase

    def __post_init__(self) -> None:
        if self.heuristic is not None:
            check_name("heuristic", self.heuristic, HEURISTICS)
        check_name("reduction", self.reduction, REDUCTIONS)
        check_name("strategy", self.strategy, STRATEGIES)
        if self.prior is not None:
            check_name("prior", self.prior, PRIORS)
        require(self.history in HISTORIES, f"sampler history must be one of {', '.join(HISTORIES)}", self.history)
        require(
            not self.holdout or is_outside(self.strategy) or STRATEGIES[self.strategy].accepts_negative_scores,
            "sampler holdout makes scores negative: strategy must be one of "
            + ", ".join(name for name, row in STRATEGIES.items() if row.accepts_negative_scores),
            self.strategy,
        )
        for name in ("class_weight", "box_weight", "smoothing", "weight_exponent"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"sampler {name} must be finite and ≥ 0", value)
        require(
            self.class_weight > 0 or self.box_weight > 0,
            "sampler class_weight and box_weight must not both be 0",
            (self.class_weight, self.box_weight),
        )
        require(
            not self.weight_exponent or is_outside(self.strategy) or not STRATEGIES[self.strategy].walks,
            f"sampler weight_exponent must be 0 with strategy {self.strategy!r}: a walk does not draw with the "
            "probabilities p that it reports, so weights of 1/(N·p) would be biased; use strategy 'proportional'",
            self.weight_exponent,
        )
        require(
            not self.weight_exponent or is_outside(self.strategy) or not STRATEGIES[self.strategy].gives_weights,
            f"sampler weight_exponent must be 0 with strategy {self.strategy!r}, whose own weights undo the bias",
            self.weight_exponent,
        )
        require(0 <= self.floor <= 1, "sampler floor must be in [0, 1]", self.floor)
        require(0 <= self.momentum < 1, "sampler momentum must be in [0, 1)", self.momentum)
        require(
            self.momentum == 0 or self.history == "momentum",
            "sampler momentum must be 0 unless history is 'momentum', which alone reads it",
            self.momentum,
        )
        require(0 < self.half_life < float("inf"), "sampler half_life must be finite and > 0", self.half_life)
        require(1 <= self.pressure < float("inf"), "sampler pressure must be finite and ≥ 1", self.pressure)
        require(0 <= self.share < 1, "sampler share must be in [0, 1)", self.share)
        require(0 <= self.horizon <= 1, "sampler horizon must be in [0, 1], a share of the run", self.horizon)
        require(self.start in STARTS, f"sampler start must be one of {', '.join(STARTS)}", self.start)
        require(
            (self.prior is None and self.start == "scores")
            or is_outside(self.strategy)
            or STRATEGIES[self.strategy].accepts_prior,
            "sampler prior, and start 'prior', need a strategy of "
            + ", ".join(name for name, row in STRATEGIES.items() if row.accepts_prior),
            self.strategy,
        )
        row = PRIORS.get(self.prior or "")
        require(
            row is None or not row.observes or is_outside(self.strategy) or not STRATEGIES[self.strategy].walks,
            f"sampler prior {self.prior!r} counts what is drawn by its probability, which strategy {self.strategy!r}, "
            "a walk, does not report: use strategy 'proportional' or 'prior'",
            self.strategy,
        )
        require(0 <= self.prior_exponent <= 4, "sampler prior_exponent must be in [0, 4]", self.prior_exponent)
        require(0 < self.prior_threshold <= 1, "sampler prior_threshold must be in (0, 1]", self.prior_threshold)
        require(1 <= self.prior_cap < float("inf"), "sampler prior_cap must be finite and ≥ 1", self.prior_cap)
        require(0 <= self.empty_weight <= 1, "sampler empty_weight must be in [0, 1]", self.empty_weight)
        require(0 <= self.score_low < float("inf"), "sampler score_low must be finite and ≥ 0", self.score_low)
        require(0 < self.score_quantile <= 1, "sampler score_quantile must be in (0, 1]", self.score_quantile)
        require(
            self.score_quantile == 1 or self.prior is not None,
            "sampler score_quantile needs a prior, as its groups are those of the labels",
            self.score_quantile,
        )
        require(self.window >= 1, "sampler window must be ≥ 1", self.window)
        require(0 <= self.empty_least <= 1, "sampler empty_least must be in [0, 1]", self.empty_least)
        require(
            0 <= self.floor_from <= self.floor_until <= 1,
            "sampler floor_from and floor_until must be shares of the run, 0 ≤ from ≤ until ≤ 1",
            (self.floor_from, self.floor_until),
        )
        require(0 <= self.floor_end <= 1, "sampler floor_end must be in [0, 1]", self.floor_end)
        check_name("selection", self.selection, SELECTIONS)
        require(self.candidates >= 1, "sampler candidates must be ≥ 1", self.candidates)
        require(
            self.candidates == 1 or self.heuristic is not None,
            "sampler candidates > 1 needs a heuristic to choose those that train by",
            self.candidates,
        )
        require(self.scorer in SCORERS, f"sampler scorer must be one of {', '.join(SCORERS)}", self.scorer)
        require(
            self.scorer == "detector" or self.candidates > 1,
            "sampler scorer 'predictor' scores candidates, and there are none: candidates must be > 1",
            self.candidates,
        )
        require(
            self.scorer == "detector" or row is None or not row.observes,
            f"sampler prior {self.prior!r} wants to see all that is drawn: scorer must be 'detector'",
            self.scorer,
        )
        require(
            self.candidates == 1
            or not self.holdout
            or is_outside(self.selection)
            or SELECTIONS[self.selection].accepts_negative_scores,
            "sampler holdout makes scores negative: selection must be one of "
            + ", ".join(name for name, row in SELECTIONS.items() if row.accepts_negative_scores),
            self.selection,
        )

        if not is_outside(self.strategy):
            self.require_mixing(STRATEGIES[self.strategy])

    def require_mixing(self, strategy: Strategy) -> None:
        """Raise InputError for loss weights or a floor that the strategy cannot have; of one of another package this is
        known when a table is made."""
        require(
            not (self.weight_exponent and strategy.leaves_out),
            f"sampler weight_exponent must be 0 with strategy {self.strategy!r}: no weight makes up for examples that "
            "it does not draw",
            self.weight_exponent,
        )
        require(
            (self.floor == 0 and self.floor_from == 1) or not strategy.in_epochs,
            f"sampler floor must be 0, and floor_from 1, with strategy {self.strategy!r}, which draws in epochs and "
            "mixes in no uniform draws",
            (self.floor, self.floor_from),
        )

    @property
    def timed(self) -> bool:
        """Whether draws change with the share of the run that is done, so that the table needs the run's length."""
        return self.horizon > 0 or self.floor_from < 1

    def floor_at(self, progress: float) -> float:
        """Return the floor after a share ``progress`` of the run's draws, 0 … 1."""
        if progress <= self.floor_from:
            return self.floor
        done = (
            1.0 if progress >= self.floor_until else (progress - self.floor_from) / (self.floor_until - self.floor_from)
        )
        return self.floor + (self.floor_end - self.floor) * done


_CAP = SamplerConfig(
    name="CAP",
    heuristic="bounded_error",
    reduction="max",
    history="momentum",
    momentum=0.5,
    prior="class_adaptive",
    start="prior",
    score_quantile=0.9,
    smoothing=0.0,
    floor=0.2,
    floor_from=0.6,
    floor_until=0.85,
    summary="By rare classes that are still wrong, and by the worst object's error; uniform towards the end.",
    source="ours: class-adaptive prior",
)
# "thesis …" is the thesis's own; "ours" has no paper. A source gives the paper's number of an equation where that was
# looked up, else the paper's name for the thing.
_SAMPLERS = [
    # The thesis's eight.
    SamplerConfig(
        name="baseline",
        strategy="sequential",
        summary="Every example once per epoch, in random order.",
        source="thesis §4.2.1",
    ),
    SamplerConfig(name="LIS", heuristic="loss", summary="In proportion to the loss.", source="thesis §4.2.3, eq. 4.2"),
    SamplerConfig(
        name="UIS",
        heuristic="uncertainty",
        summary="In proportion to the uncertainty: highest where the model is undecided.",
        source="thesis §4.2.5.1, the form of its text, not of eq. 4.5 as printed",
    ),
    SamplerConfig(
        name="LIS-RB",
        heuristic="loss",
        strategy="rejection",
        summary="As LIS, by a rejection walk, which favours high scores even more.",
        source="thesis §4.2.7, algorithm 5",
    ),
    SamplerConfig(
        name="UIS-RB",
        heuristic="uncertainty",
        strategy="rejection",
        summary="As UIS, by a rejection walk, which favours high scores even more.",
        source="thesis §4.2.7, algorithm 5",
    ),
    SamplerConfig(
        name="LIS-RHO",
        heuristic="loss",
        strategy="shifted",
        holdout=True,
        summary="In proportion to the loss less that of a hold-out model.",
        source="thesis §4.2.6, eqs. 3.1 and 4.6",
    ),
    SamplerConfig(
        name="LIS-IR",
        heuristic="loss",
        box_weight=0.0,
        summary="As LIS, by the class loss alone.",
        source="thesis §4.3",
    ),
    SamplerConfig(
        name="UIS-IR",
        heuristic="uncertainty",
        box_weight=0.0,
        summary="As UIS, by the class uncertainty alone.",
        source="thesis §4.3",
    ),
    # Its equations and proposals beyond the eight.
    SamplerConfig(
        name="error",
        heuristic="error",
        reduction="masked_mean",
        summary="In proportion to −log a and −log IoU, all locations alike.",
        source="thesis §4.2.5, eq. 4.4",
    ),
    SamplerConfig(
        name="UIS-printed",
        heuristic="uncertainty_as_printed",
        summary="The opposite of UIS: prefers what the model is sure of. An ablation.",
        source="thesis eq. 4.5 to the letter",
    ),
    SamplerConfig(
        name="UIS-asymmetric",
        heuristic="asymmetric_uncertainty",
        summary="As UIS, with more weight on wrong predictions than on right ones.",
        source="proposed in thesis chapter 7; form ours",
    ),
    SamplerConfig(
        name="UIS-weighted",
        heuristic="uncertainty",
        box_weight=0.25,
        summary="As UIS, with a quarter of the box part.",
        source="proposed in thesis chapter 7",
    ),
    SamplerConfig(
        name="UIS-background",
        heuristic="background_aware",
        summary="As UIS, plus confident false positives on the background.",
        source="proposed in thesis §6.3.2 and chapter 7; form ours",
    ),
    # Other ways to draw from the same scores.
    SamplerConfig(
        name="LIS-RHO-rank",
        heuristic="loss",
        strategy="linear_rank",
        holdout=True,
        summary="As LIS-RHO, by rank, so that no outlier decides the scale.",
        source="ours: thesis eq. 3.1 by rank, without eq. 4.6's outliers",
    ),
    SamplerConfig(
        name="UIS-UR",
        heuristic="uncertainty",
        strategy="uniform_rejection",
        summary="As UIS-RB, with uniform proposals, so that the walk converges to UIS's distribution.",
        source="ours: thesis algorithm 5 with uniform proposals, whose walk converges to q (Barker 1965)",
    ),
    SamplerConfig(
        name="UIS-floor",
        heuristic="uncertainty",
        floor=0.2,
        summary="As UIS, with one fifth of the draws uniform.",
        source="ours: thesis eq. 4.3 with a share that does not shrink with N",
    ),
    SamplerConfig(
        name="UIS-decayed",
        heuristic="uncertainty",
        strategy="decayed",
        summary="As UIS, with old scores fading into the mean.",
        source="ours",
    ),
    SamplerConfig(
        name="LIS-unbiased",
        heuristic="loss",
        floor=0.2,
        weight_exponent=1.0,
        summary="As LIS with one fifth of the draws uniform, and loss weights that undo the bias of drawing.",
        source='Schaul et al. 2016, "Annealing the bias": weights (1/N · 1/p)^β with β = 1',
    ),
    SamplerConfig(
        name="bounded-error",
        heuristic="bounded_error",
        summary="In proportion to 1 − a and 1 − IoU, so that no example dominates.",
        source="Chang et al. 2017, 1 − p of the true class, as in thesis §4.2.5, without its history",
    ),
    SamplerConfig(
        name="loss-rank",
        heuristic="loss",
        strategy="rank",
        pressure=100.0,
        summary="By the loss's rank: the highest loss is 100 times as likely as the lowest.",
        source="Loshchilov & Hutter 2015: probability decays exponentially with the loss's rank",
    ),
    SamplerConfig(
        name="replacement",
        heuristic="loss",
        strategy="replace",
        share=0.1,
        history="momentum",
        momentum=0.5,
        summary="Every example once per epoch, but the top tenth by loss twice and the bottom tenth not at all.",
        source="Ioannou et al. 2019, as in thesis chapter 3",
    ),
    SamplerConfig(
        name="gradient-norm",
        heuristic="gradient_norm",
        reduction="norm",
        box_weight=0.0,
        summary="In proportion to a bound of the gradient's norm.",
        source="Katharopoulos & Fleuret 2018, eq. 20: bound of the gradient norm",
    ),
    SamplerConfig(  # the paper's smoothing adds the mean score, which is a floor of one half; below likewise
        name="prediction-variance",
        heuristic="bounded_error",
        box_weight=0.0,
        history="variance",
        floor=0.5,
        summary="In proportion to how much the error varied over the run; half of the draws are uniform.",
        source="Chang et al. 2017 (active bias), prediction variance",
    ),
    SamplerConfig(
        name="threshold-closeness",
        heuristic="bounded_error",
        box_weight=0.0,
        history="closeness",
        floor=0.5,
        summary="In proportion to how close the mean error is to one half; half of the draws are uniform.",
        source="Chang et al. 2017 (active bias), threshold closeness",
    ),
    SamplerConfig(
        name="history-mean",
        heuristic="loss",
        history="mean",
        summary="In proportion to the mean loss over the run.",
        source="Chang et al. 2017, mean over the epochs, as in thesis §4.2.5, of the loss",
    ),
    SamplerConfig(
        name="InfoBatch",
        heuristic="loss",
        strategy="prune",
        share=0.5,
        horizon=0.875,
        summary="Leaves out half of the examples below the mean loss each epoch; the rest of these weigh double.",
        source="Qin et al. 2024: soft pruning, expectation rescaling, annealing",
    ),
    SamplerConfig(  # an error above one half counts as misclassified
        name="forgetting",
        heuristic="bounded_error",
        box_weight=0.0,
        history="forgetting",
        summary="In proportion to how often an example went from right to wrong.",
        source="Toneva et al. 2019, §3 and algorithm 1",
    ),
    SamplerConfig(
        name="margin",
        heuristic="margin",
        box_weight=0.0,
        summary="In proportion to how far the true class is behind the best other class.",
        source="Pleiss et al. 2020, the margin, as in thesis chapter 3",
    ),
    SamplerConfig(
        name="EL2N",
        heuristic="error_vector_norm",
        box_weight=0.0,
        summary="In proportion to the norm of the error vector of the class probabilities.",
        source="Paul et al. 2021, definition 2.3",
    ),
    SamplerConfig(
        name="self-paced",
        heuristic="loss",
        strategy="self_paced",
        share=0.5,
        horizon=0.5,
        summary="Uniform over the easy half at first, over all examples from the middle of the run.",
        source="Kumar et al. 2010: easy samples first, annealed until all are considered",
    ),
    # A control.
    SamplerConfig(
        name="uniform",
        floor=1.0,
        summary="Uniform, with replacement: a control that shows what replacement alone costs.",
        source="ours: a control",
    ),
    # Draws by the labels: the peers that other people use, and controls for what scores add to them.
    SamplerConfig(
        name="RFS",
        strategy="prior",
        prior="repeat_factor",
        start="prior",
        smoothing=0.0,
        summary="By the rarest class of the image, from the first draw on; images without an object at a quarter.",
        source="Gupta et al. 2019 (LVIS), repeat factor sampling, without its threshold",
    ),
    SamplerConfig(
        name="IRFS",
        strategy="prior",
        prior="instance_repeat_factor",
        start="prior",
        smoothing=0.0,
        summary="As RFS, by how rare a class is among images and among objects.",
        source="Yaman et al. 2023, instance-aware repeat factor sampling, without its threshold",
    ),
    SamplerConfig(
        name="empties",
        strategy="prior",
        prior="empties",
        start="prior",
        smoothing=0.0,
        summary="Uniform, but images without an object at a quarter: a control.",
        source="ours: a control; a share of empty images as yolov5 advises it",
    ),
    SamplerConfig(
        name="segments",
        strategy="prior",
        prior="segments",
        start="prior",
        smoothing=0.0,
        summary="By one over the root of the sequence's length: long videos count less.",
        source="ours: repeat factors of sequences",
    ),
    # Draws by labels and scores.
    _CAP,
    SamplerConfig(
        name="CAP-labels",
        strategy="prior",
        prior="class_adaptive",
        start="prior",
        smoothing=0.0,
        floor=0.2,
        floor_from=0.6,
        floor_until=0.85,
        summary="As CAP, without the example's own score: an ablation.",
        source="ours: class-adaptive prior",
    ),
    replace(
        _CAP,
        name="CAP-static",
        prior="repeat_factor",
        summary="As CAP, with the weights of RFS, whatever the classes' errors are: an ablation.",
    ),
    SamplerConfig(
        name="class-max",
        heuristic="bounded_error",
        reduction="class_max",
        summary="In proportion to the worst object of each class, rare classes weighing more.",
        source="ours; weights of Gupta et al. 2019",
    ),
    SamplerConfig(
        name="progress",
        strategy="prior",
        prior="progress",
        start="prior",
        smoothing=0.0,
        floor=0.2,
        summary="By the class and size whose loss falls: what cannot be learnt is left alone.",
        source="ours; learning progress after Graves et al. 2017",
    ),
    # Online batch selection: each step chooses among candidates, drawn as the baseline draws.
    SamplerConfig(
        name="online-top",
        heuristic="loss",
        strategy="sequential",
        candidates=4,
        summary="Of four batches, trains on the examples with the highest loss.",
        source="Kawaguchi & Lu 2020, ordered SGD; Loshchilov & Hutter 2015",
    ),
    SamplerConfig(
        name="online-proportional",
        heuristic="gradient_norm",
        reduction="norm",
        box_weight=0.0,
        strategy="sequential",
        candidates=4,
        selection="proportional",
        summary="Of four batches, draws by a bound of the gradient's norm, with loss weights that undo the bias.",
        source="Katharopoulos & Fleuret 2018, algorithm 1, from the first step on",
    ),
    SamplerConfig(
        name="online-percentile",
        heuristic="loss",
        strategy="sequential",
        candidates=4,
        selection="percentile",
        summary="Of four batches, draws one by the third power of the loss's percentile.",
        source="Jiang et al. 2019, selective backprop, among the candidates",
    ),
    SamplerConfig(
        name="online-RHO",
        heuristic="loss",
        strategy="sequential",
        holdout=True,
        candidates=4,
        summary="Of four batches, trains on the highest loss less that of a hold-out model.",
        source="Mindermann et al. 2022, RHO-LOSS, algorithm 1",
    ),
    SamplerConfig(
        name="online-predicted",
        heuristic="loss",
        strategy="sequential",
        candidates=4,
        selection="proportional",
        scorer="predictor",
        summary="Of four batches, draws by the loss that a small second network predicts, with weights against bias.",
        source="Katharopoulos & Fleuret 2017, with a convolutional network in place of a recurrent one",
    ),
    # Without what stays misclassified.
    SamplerConfig(
        name="AUM",
        heuristic="margin",
        box_weight=0.0,
        history="mean",
        strategy="exclude",
        share=0.05,
        horizon=0.3,
        smoothing=0.0,
        summary="Uniform, but from 30 % of the run on without the twentieth whose true class stayed furthest behind.",
        source="Pleiss et al. 2020, area under the margin, of a bounded form and within one run",
    ),
]
SAMPLERS: dict[str, SamplerConfig] = {sampler.name: sampler for sampler in _SAMPLERS}
THESIS_SAMPLERS = ("baseline", "LIS", "UIS", "LIS-RB", "UIS-RB", "LIS-RHO", "LIS-IR", "UIS-IR")


def draw_settings(sampler: SamplerConfig) -> dict[str, Any]:
    """Return the settings that decide what is drawn from given scores, by name."""
    return {item.name: getattr(sampler, item.name) for item in fields(sampler) if "decides" not in item.metadata}
