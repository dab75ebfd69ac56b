"""Settings: frozen dataclasses, and the named samplers and presets as plain dicts.

A variant is ``dataclasses.replace(base, lag=0)``. A wrong value is refused here, before anything starts, with the rule
and the value it broke.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from isod.errors import InputError


def require(condition: bool, rule: str, value: object) -> None:
    """Raise InputError("<rule>, got <value>") unless the condition holds."""
    if not condition:
        raise InputError(f"{rule}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The network and its inference (thesis §4.1)."""

    width: float = 0.5  # feature multiplier: every ResNet channel count is multiplied by it; 0.25 for the hold-out model
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)  # residual blocks per stage; (3, 4, 6, 3) is ResNet-34
    score_floor: float = 0.01  # detections above it count for AP, which needs the whole curve; softmax probability
    nms_threshold: float = 0.5  # IoU above which the weaker of two detections of one class is dropped
    display_threshold: float = 0.5  # score of detections shown to people and counted as false positives
    detections_per_image: int = 300  # the highest-scoring ones after NMS

    def __post_init__(self) -> None:
        require(0 < self.width <= 4, "detector width must be in (0, 4]", self.width)
        require(len(self.blocks) == 4 and min(self.blocks) >= 1, "detector blocks must be four counts ≥ 1", self.blocks)
        for name in ("score_floor", "nms_threshold", "display_threshold"):
            require(0 < getattr(self, name) < 1, f"detector {name} must be in (0, 1)", getattr(self, name))
        require(self.score_floor <= self.display_threshold, "score_floor must not exceed display_threshold",
                self.score_floor)
        require(self.detections_per_image >= 1, "detections_per_image must be ≥ 1", self.detections_per_image)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run (thesis §4.5). Budgets count iterations: one optimizer step on one batch."""

    iterations: int = 246_000
    batch_size: int = 128  # crops
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-7
    validate_every: int = 703  # iterations; the same grid for every sampler
    lag: int = 4  # draw t sees the scores of steps ≤ t − 1 − lag; also how many batches are prepared ahead
    flip: bool = False  # mirror each drawn crop with probability one half
    seed: int = 0  # initial weights, order of the data and augmentation
    class_weight: float = 1.0  # λ_cls of eq. 4.1
    box_weight: float = 1.0  # λ_reg of eq. 4.1

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "validate_every"):
            require(getattr(self, name) >= 1, f"{name} must be ≥ 1", getattr(self, name))
        require(self.lag >= 0, "lag must be ≥ 0", self.lag)
        require(self.lr > 0, "lr must be > 0", self.lr)
        require(self.eps > 0, "eps must be > 0", self.eps)
        require(0 <= self.seed < 2**32, "seed must be in 0 … 2³² − 1", self.seed)
        require(self.class_weight >= 0 and self.box_weight >= 0, "loss weights must be ≥ 0",
                (self.class_weight, self.box_weight))


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How training examples are drawn: heuristic + reduction + strategy + smoothing + task weights (spec §2)."""

    name: str
    heuristic: str | None = None  # a key of isod.sampling.HEURISTICS; None for a sampler that reads no scores
    reduction: str = "mean"  # a key of isod.sampling.REDUCTIONS (§4.2.4)
    strategy: str = "proportional"  # a key of isod.sampling.STRATEGIES
    class_weight: float = 1.0  # w_cls: weight of the class part of the sample score
    box_weight: float = 1.0  # w_reg: weight of the box part; 0 is the thesis's "regression ignored" (§4.3)
    smoothing: float = 1.0  # multiple of eq. 4.3's bias (1/N²)Σs that is added to every score at draw time
    floor: float = 0.0  # λ: share of the probability that is uniform, λ/N + (1 − λ)·p_i


SAMPLERS: dict[str, SamplerConfig] = {
    sampler.name: sampler
    for sampler in [
        SamplerConfig(name="baseline", strategy="sequential"),
        SamplerConfig(name="LIS", heuristic="loss"),
        SamplerConfig(name="UIS", heuristic="uncertainty"),
        SamplerConfig(name="LIS-IR", heuristic="loss", box_weight=0.0),
        SamplerConfig(name="UIS-IR", heuristic="uncertainty", box_weight=0.0),
    ]
}
