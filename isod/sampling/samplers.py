"""How training examples are drawn, and the samplers that have a name: those of the thesis and of the related work."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from isod.errors import require
from isod.plugins import is_outside
from isod.sampling.catalogue import HEURISTICS, HISTORIES, REDUCTIONS, STRATEGIES, accepts_negative_scores, check_name

SCORE = {"decides": "score"}  # of a field: it decides how examples score, not how they are drawn
LABEL = {"decides": "nothing"}  # of a field: a name or a note


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How training examples are drawn: heuristic + reduction + strategy + smoothing + task weights (spec §2)."""

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
    weight_exponent: float = 0.0  # the example's loss is multiplied by (1/(N·p))^exponent; 1 undoes the bias of drawing
    half_life: float = 1000.0  # of strategy "decayed": updates after which a score counts half, the mean score half
    pressure: float = 100.0  # of strategy "rank": how many times as likely the highest score is as the lowest
    share: float = 0.5  # of the examples: pruned below the mean ("prune"), replaced ("replace"), let in ("self_paced")
    horizon: float = 0.0  # of the run's draws: when "self_paced" has let in all, when "prune" stops pruning; 0: never
    source: str = field(default="", compare=False, metadata=LABEL)  # where it is from; it changes no run

    def __post_init__(self) -> None:
        if self.heuristic is not None:
            check_name("heuristic", self.heuristic, HEURISTICS)
        check_name("reduction", self.reduction, REDUCTIONS)
        check_name("strategy", self.strategy, STRATEGIES)
        require(self.history in HISTORIES, f"sampler history must be one of {', '.join(HISTORIES)}", self.history)
        require(
            not self.holdout or is_outside(self.strategy) or accepts_negative_scores(self.strategy),
            "sampler holdout makes scores negative, so that strategy must be one of "
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
        require(0 <= self.floor <= 1, "sampler floor must be in [0, 1]", self.floor)
        require(0 <= self.momentum < 1, "sampler momentum must be in [0, 1)", self.momentum)
        require(0 < self.half_life < float("inf"), "sampler half_life must be finite and > 0", self.half_life)
        require(1 <= self.pressure < float("inf"), "sampler pressure must be finite and ≥ 1", self.pressure)
        require(0 <= self.share < 1, "sampler share must be in [0, 1)", self.share)
        require(0 <= self.horizon <= 1, "sampler horizon must be in [0, 1], a share of the run", self.horizon)


# A source with "thesis" alone is the thesis's own; "ours" has no paper. A number is given where it was looked up, else
# the name that the paper has for the thing.
_SAMPLERS = [
    # The thesis's eight.
    SamplerConfig(name="baseline", strategy="sequential", source="thesis §4.2.1"),
    SamplerConfig(name="LIS", heuristic="loss", source="thesis §4.2.3, eq. 4.2"),
    SamplerConfig(
        name="UIS", heuristic="uncertainty", source="thesis §4.2.5.1, the form of its text, not of eq. 4.5 as printed"
    ),
    SamplerConfig(name="LIS-RB", heuristic="loss", strategy="rejection", source="thesis §4.2.7, algorithm 5"),
    SamplerConfig(name="UIS-RB", heuristic="uncertainty", strategy="rejection", source="thesis §4.2.7, algorithm 5"),
    SamplerConfig(
        name="LIS-RHO", heuristic="loss", strategy="shifted", holdout=True, source="thesis §4.2.6, eqs. 3.1 and 4.6"
    ),
    SamplerConfig(name="LIS-IR", heuristic="loss", box_weight=0.0, source="thesis §4.3"),
    SamplerConfig(name="UIS-IR", heuristic="uncertainty", box_weight=0.0, source="thesis §4.3"),
    # Its equations and proposals beyond the eight.
    SamplerConfig(name="error", heuristic="error", reduction="masked_mean", source="thesis §4.2.5, eq. 4.4"),
    SamplerConfig(name="UIS-printed", heuristic="uncertainty_as_printed", source="thesis eq. 4.5 to the letter"),
    SamplerConfig(
        name="UIS-asymmetric", heuristic="asymmetric_uncertainty", source="proposed in thesis chapter 7; form ours"
    ),
    SamplerConfig(name="UIS-weighted", heuristic="uncertainty", box_weight=0.25, source="proposed in thesis chapter 7"),
    SamplerConfig(
        name="UIS-background",
        heuristic="background_aware",
        source="proposed in thesis §6.3.2 and chapter 7; form ours",
    ),
    # Other ways to draw from the same scores.
    SamplerConfig(
        name="LIS-RHO-rank",
        heuristic="loss",
        strategy="linear_rank",
        holdout=True,
        source="ours: thesis eq. 3.1 by rank, without eq. 4.6's outliers",
    ),
    SamplerConfig(
        name="UIS-UR",
        heuristic="uncertainty",
        strategy="uniform_rejection",
        source="ours: thesis algorithm 5 with uniform proposals, so that it settles at q (Barker 1965)",
    ),
    SamplerConfig(
        name="UIS-floor",
        heuristic="uncertainty",
        floor=0.2,
        source="ours: thesis eq. 4.3 with a share that does not shrink with N",
    ),
    SamplerConfig(
        name="UIS-decayed", heuristic="uncertainty", strategy="decayed", source="ours: old scores fade into the mean"
    ),
    SamplerConfig(
        name="LIS-unbiased",
        heuristic="loss",
        floor=0.2,
        weight_exponent=1.0,
        source='Schaul et al. 2016, "Annealing the bias": weights (1/N · 1/p)^β with β = 1',
    ),
    SamplerConfig(
        name="bounded-error",
        heuristic="bounded_error",
        source="Chang et al. 2017, 1 − p of the true class, as in thesis §4.2.5, without its history",
    ),
    SamplerConfig(
        name="loss-rank",
        heuristic="loss",
        strategy="rank",
        pressure=100.0,
        source="Loshchilov & Hutter 2015: probability decays exponentially with the loss's rank",
    ),
    SamplerConfig(
        name="replacement",
        heuristic="loss",
        strategy="replace",
        share=0.1,
        history="momentum",
        momentum=0.5,
        source="Ioannou et al. 2019, as in thesis chapter 3",
    ),
    SamplerConfig(
        name="gradient-norm",
        heuristic="gradient_norm",
        reduction="norm",
        box_weight=0.0,
        source="Katharopoulos & Fleuret 2018, eq. 20: bound of the gradient norm",
    ),
    SamplerConfig(  # the paper's smoothing adds the mean score, which is a floor of one half; below likewise
        name="prediction-variance",
        heuristic="bounded_error",
        box_weight=0.0,
        history="variance",
        floor=0.5,
        source="Chang et al. 2017 (active bias), prediction variance",
    ),
    SamplerConfig(
        name="threshold-closeness",
        heuristic="bounded_error",
        box_weight=0.0,
        history="closeness",
        floor=0.5,
        source="Chang et al. 2017 (active bias), threshold closeness",
    ),
    SamplerConfig(
        name="history-mean",
        heuristic="loss",
        history="mean",
        source="Chang et al. 2017, mean over the epochs, as in thesis §4.2.5, of the loss",
    ),
    SamplerConfig(
        name="InfoBatch",
        heuristic="loss",
        strategy="prune",
        share=0.5,
        horizon=0.875,
        source="Qin et al. 2024: soft pruning, expectation rescaling, annealing",
    ),
    SamplerConfig(  # an error above one half counts as misclassified
        name="forgetting",
        heuristic="bounded_error",
        box_weight=0.0,
        history="forgetting",
        source="Toneva et al. 2019, §3 and algorithm 1",
    ),
    SamplerConfig(
        name="margin",
        heuristic="margin",
        box_weight=0.0,
        source="Pleiss et al. 2020, the margin, as in thesis chapter 3",
    ),
    SamplerConfig(
        name="EL2N", heuristic="error_vector_norm", box_weight=0.0, source="Paul et al. 2021, definition 2.3"
    ),
    SamplerConfig(
        name="self-paced",
        heuristic="loss",
        strategy="self_paced",
        share=0.5,
        horizon=0.5,
        source="Kumar et al. 2010: easy samples first, annealed until all are considered",
    ),
    # And from none.
    SamplerConfig(
        name="uniform",
        floor=1.0,
        source="ours: a control. With replacement, as UIS draws, and by no score: what that alone costs",
    ),
]
SAMPLERS: dict[str, SamplerConfig] = {sampler.name: sampler for sampler in _SAMPLERS}
THESIS_SAMPLERS = ("baseline", "LIS", "UIS", "LIS-RB", "UIS-RB", "LIS-RHO", "LIS-IR", "UIS-IR")


def draw_settings(sampler: SamplerConfig) -> dict[str, Any]:
    """Return the settings that decide what is drawn from given scores, by name."""
    return {item.name: getattr(sampler, item.name) for item in fields(sampler) if "decides" not in item.metadata}
