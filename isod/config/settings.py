"""Settings of a run and of the machine that it runs on: frozen dataclasses that check themselves.

A variant is ``dataclasses.replace(base, lag=0)``. A wrong value is rejected here, before anything starts, with the rule
and the value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from isod.errors import InputError, require
from isod.sampling.samplers import SamplerConfig


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The network and its inference (thesis §4.1)."""

    name: str = "thesis"  # a key of isod.detector.model.DETECTORS, or package.module:function
    width: float = (
        0.5  # feature multiplier: every ResNet channel count is multiplied by it; 0.25 for the hold-out model
    )
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
        require(
            self.score_floor <= self.display_threshold,
            "score_floor must not exceed display_threshold",
            self.score_floor,
        )
        require(self.detections_per_image >= 1, "detections_per_image must be ≥ 1", self.detections_per_image)


LOSS_NORMALISATIONS = ("location", "object")
LR_SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run (thesis §4.5). Budgets count iterations: one optimizer step on one batch."""

    iterations: int = 246_000
    batch_size: int = 128  # crops
    lr: float = 1e-3
    lr_schedule: str = "constant"  # or "cosine": from lr down to 0
    lr_decayed_at: float = 1.0  # of schedule "cosine": share of the iterations after which it has come down to 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-7
    validate_every: int = 703  # iterations; the same grid for every sampler
    lag: int = 4  # draw t sees the scores of steps ≤ t − 1 − lag; also how many batches are read ahead, copy included
    flip: bool = False  # mirror each drawn crop with probability one half
    seed: int = 0  # initial weights, order of the data and augmentation
    compiled: bool = False  # train through torch.compile, where one process has the run: a minute, then faster steps
    decode_on_device: bool = False  # drawn crops reach the training process as JPEG, and its GPU decodes them
    class_weight: float = 1.0  # λ_cls of eq. 4.1
    box_weight: float = 1.0  # λ_reg of eq. 4.1
    loss_normalisation: str = "location"  # what counts equally in the loss: "location" (eq. 4.1) or "object" (§6.3.1)

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "validate_every"):
            require(getattr(self, name) >= 1, f"{name} must be ≥ 1", getattr(self, name))
        require(self.lag >= 0, "lag must be ≥ 0", self.lag)
        require(0 < self.lr < math.inf, "lr must be > 0 and finite", self.lr)
        require(
            self.lr_schedule in LR_SCHEDULES, f"lr_schedule must be one of {', '.join(LR_SCHEDULES)}", self.lr_schedule
        )
        require(0 < self.lr_decayed_at <= 1, "lr_decayed_at must be in (0, 1]", self.lr_decayed_at)
        require(0 < self.eps < math.inf, "eps must be > 0 and finite", self.eps)
        require(len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
                "betas must be two numbers in [0, 1)", self.betas)  # fmt: skip
        require(0 <= self.seed < 2**32, "seed must be in 0 … 2³² − 1", self.seed)
        weights = self.class_weight, self.box_weight
        require(all(0 <= weight < math.inf for weight in weights) and max(weights) > 0,
                "loss weights must be finite and ≥ 0, and not both 0", weights)  # fmt: skip
        require(
            self.loss_normalisation in LOSS_NORMALISATIONS,
            f"loss_normalisation must be one of {', '.join(LOSS_NORMALISATIONS)}",
            self.loss_normalisation,
        )


@dataclass(frozen=True, kw_only=True)
class HoldoutConfig:
    """The model whose scores a sampler with ``holdout`` subtracts (RHO, thesis §4.2.6, Table 4.1)."""

    share: float = 0.15  # of the training examples: it learns from them alone, the main run never draws them
    epochs: int = 100  # over that share
    batch_size: int = 128  # crops
    detector: DetectorConfig = field(default_factory=lambda: DetectorConfig(width=0.25))

    def __post_init__(self) -> None:
        require(0 < self.share < 1, "hold-out share must be in (0, 1)", self.share)
        for name in ("epochs", "batch_size"):
            require(getattr(self, name) >= 1, f"hold-out {name} must be ≥ 1", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that one run depends on, besides its store: one sampler × one seed."""

    sampler: SamplerConfig
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """What a trial asks of the machine. Of these ``threads`` and ``workers_per_trial`` can change a run by the order of
    float sums, and ``gpus_per_trial`` by its device: bfloat16 on a GPU, float32 on a CPU."""

    workers_per_trial: int = 1  # ranks that share a trial's batches; each has the processes, CPUs and GPUs below
    decode_workers: int = 2  # processes that read and decode crops for one trial
    cpus_per_worker: float = 1.0  # CPUs that each of them reserves
    cpus_per_trial: float = 1.0  # CPUs that the training process itself reserves
    gpus_per_trial: float = 0.0  # GPUs, fractions allowed
    threads: int = 1  # torch's CPU threads in the training process
    checkpoint_share: float = 0.01  # of the training time that checkpoints may take

    def __post_init__(self) -> None:
        require(self.workers_per_trial >= 1, "workers_per_trial must be ≥ 1", self.workers_per_trial)
        require(self.decode_workers >= 1, "decode_workers must be ≥ 1", self.decode_workers)
        require(self.cpus_per_worker > 0, "cpus_per_worker must be > 0", self.cpus_per_worker)
        require(self.cpus_per_trial > 0, "cpus_per_trial must be > 0", self.cpus_per_trial)
        shared = 0 <= self.gpus_per_trial <= 1
        require(shared or (self.gpus_per_trial > 1 and float(self.gpus_per_trial).is_integer()),
                "gpus_per_trial must be in [0, 1], or a whole number", self.gpus_per_trial)  # fmt: skip
        require(
            self.workers_per_trial == 1 or self.gpus_per_trial == 0 or self.gpus_per_trial >= 1,
            "the workers of one trial cannot share a GPU: with workers_per_trial > 1, gpus_per_trial must be 0 or ≥ 1",
            self.gpus_per_trial,
        )
        require(self.threads >= 1, "threads must be ≥ 1", self.threads)
        require(0 < self.checkpoint_share <= 1, "checkpoint_share must be in (0, 1]", self.checkpoint_share)

    def busy_workers(self, lag: int) -> int:
        """How many of a trial's decode workers have a batch to read while the trainer waits for its next one, step t's.

        On a CPU the scores of steps ≤ t − 1 are in by then, so that batches t … t + lag may be read; on a GPU, where
        step t − 1 still computes while batch t is fetched, those up to t − 1 + lag.
        """
        return min(self.decode_workers, max(1, lag) if self.gpus_per_trial > 0 else lag + 1)

    def check_batch(self, batch_size: int) -> None:
        """Raises InputError, with the arithmetic, if the workers of a trial cannot have equal parts of a batch."""
        workers = self.workers_per_trial
        size, rest = divmod(batch_size, workers)
        if rest:
            raise InputError(
                f"a batch of {batch_size} crops has no {workers} equal parts ({workers} × {size} + {rest}):"
                f" set --batch-size {max(1, size) * workers}, or another --workers-per-trial"
            )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A size at which the whole grid is run."""

    detector: DetectorConfig
    training: TrainingConfig
    resources: ResourceConfig
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    seeds: int  # runs per sampler
