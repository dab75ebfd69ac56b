"""Settings of a run and of the machine that it runs on: frozen dataclasses that check themselves.

A variant is ``dataclasses.replace(base, lag=0)``. A dataclass rejects a wrong value as it is made, before anything
starts; the error states the rule and the value. The comment behind a field is its description: ``isod settings`` and
``--help`` print it (``isod.config.fields``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from isod.errors import InputError, require
from isod.sampling.samplers import SamplerConfig

QUALITIES = ("none", "iou")
BACKBONES = ("resnet18", "resnet34", "resnet50", "mobilenet_v3_large")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The network and its inference (thesis §4.1)."""

    name: str = "thesis"  # which detector: a key of DETECTORS, or package.module:function
    width: float = 0.5  # thesis: feature multiplier of every ResNet channel count; the thesis uses 0.5
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)  # thesis: residual blocks per stage; 3,4,6,3 is ResNet-34
    quality: str = "none"  # thesis: none, or iou: a box's IoU is predicted, and a score is √(class · IoU)
    backbone: str = "resnet18"  # of the other detectors: resnet18, resnet34, resnet50 or mobilenet_v3_large
    pyramid_channels: int = 256  # of the other detectors, ssdlite aside: channels of each map that the head reads
    anchor_scale: float = 1.0  # retinanet, faster_rcnn, ssdlite: multiplies torchvision's anchor sizes
    proposals: int = 512  # faster_rcnn: proposals of an image that its second stage trains on
    weights: str = ""  # to start from: a file or folder of weights, or the name of a torchvision weights entry
    score_floor: float = 0.01  # lowest score of a detection that counts for AP, which needs the whole curve
    nms_threshold: float = 0.5  # IoU above which NMS drops the weaker of two detections of one class
    display_threshold: float = 0.5  # lowest score of a detection that the metrics FP… count
    detections_per_image: int = 300  # how many detections NMS keeps, the highest scores first

    def __post_init__(self) -> None:
        require(self.name != "", "detector name must not be empty", self.name)
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
        require(self.backbone in BACKBONES, f"detector backbone must be one of {', '.join(BACKBONES)}", self.backbone)
        channels = self.pyramid_channels
        require(channels >= 32 and channels % 32 == 0, "pyramid_channels must be a multiple of 32", channels)
        require(0 < self.anchor_scale < math.inf, "anchor_scale must be > 0 and finite", self.anchor_scale)
        require(self.quality in QUALITIES, f"detector quality must be one of {', '.join(QUALITIES)}", self.quality)
        require(self.proposals >= 1, "detector proposals must be ≥ 1", self.proposals)


REGION_METHODS = ("all", "ohem", "lrm", "pisa")


@dataclass(frozen=True, kw_only=True)
class RegionConfig:
    """Which locations of an image train the detector, and how much (thesis §3.2)."""

    method: str = "all"  # all; ohem (two-stage) or lrm (one-stage): the hardest; pisa: prime samples weigh more
    kept: int = 128  # ohem, lrm: how many locations of each image train
    bias: float = 0.0  # pisa: β, the weight of the least important positive location, in [0, 1)
    power: float = 2.0  # pisa: γ, how steeply the weight falls with the rank

    def __post_init__(self) -> None:
        require(
            self.method in REGION_METHODS, f"regions.method must be one of {', '.join(REGION_METHODS)}", self.method
        )
        require(self.kept >= 1, "regions.kept must be ≥ 1", self.kept)
        require(0 <= self.bias < 1, "regions.bias must be in [0, 1)", self.bias)
        require(0 < self.power < math.inf, "regions.power must be > 0 and finite", self.power)


LOSS_NORMALISATIONS = ("location", "object", "balanced")

LR_SCHEDULES = ("constant", "cosine")

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One run (thesis §4.5). Budgets count iterations: one optimizer step on one batch."""

    iterations: int = 246_000  # optimizer steps, one batch each
    batch_size: int = 128  # crops per step
    lr: float = 1e-3  # Adam's learning rate
    lr_schedule: str = "constant"  # constant, or cosine: from lr down to 0
    warmup: int = 0  # optimizer steps in which the rate rises in a straight line from 0
    ema: float = 0.0  # decay of averaged weights, validated and saved in place of the last ones; 0 for none
    lr_decayed_at: float = 1.0  # with schedule cosine: share of the iterations after which the rate is 0
    betas: tuple[float, float] = (0.9, 0.999)  # Adam's decay rates of the two moments
    eps: float = 1e-7  # Adam's epsilon
    validate_every: int = 703  # iterations between two validations
    lag: int = 4  # draw t uses the scores of steps up to t - 1 - lag; up to lag batches are read ahead
    flip: bool = False  # mirror each drawn crop with probability 0.5
    seed: int = 0  # of the initial weights, the order of the data and the augmentation
    precision: str = "auto"  # of forward and backward passes: float32, bfloat16, or auto: bfloat16 on GPUs alone
    compiled: bool = False  # train through torch.compile: takes a minute to start, then GPU steps are faster
    decode_on_device: bool = False  # decode the drawn crops on the GPU, for machines with few CPU cores
    class_weight: float = 1.0  # weight of the class loss, λ_cls of eq. 4.1
    box_weight: float = 1.0  # weight of the box loss, λ_reg of eq. 4.1
    loss_normalisation: str = "location"  # what counts alike in the loss: location (eq. 4.1), object (§6.3.1), balanced
    regions: RegionConfig = field(default_factory=RegionConfig)

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "validate_every"):
            require(getattr(self, name) >= 1, f"{name} must be ≥ 1", getattr(self, name))
        require(self.lag >= 0, "lag must be ≥ 0", self.lag)
        require(0 < self.lr < math.inf, "lr must be > 0 and finite", self.lr)
        require(
            self.lr_schedule in LR_SCHEDULES, f"lr_schedule must be one of {', '.join(LR_SCHEDULES)}", self.lr_schedule
        )
        require(self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}", self.precision)
        require(0 < self.lr_decayed_at <= 1, "lr_decayed_at must be in (0, 1]", self.lr_decayed_at)
        require(self.warmup >= 0, "warmup must be ≥ 0", self.warmup)
        require(0 <= self.ema < 1, "ema must be in [0, 1)", self.ema)
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
    """The hold-out model, whose scores a sampler with ``holdout`` subtracts (RHO, thesis §4.2.6, Table 4.1)."""

    share: float = 0.15  # share of the training examples that the hold-out model trains on; the main run skips them
    epochs: int = 100  # passes over that share
    batch_size: int = 128  # crops per step
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

    @property
    def draw_size(self) -> int:
        """Examples that a step draws: more than it trains on where the sampler chooses among candidates."""
        return self.sampler.candidates * self.training.batch_size

    @property
    def name(self) -> str:
        """How the run is called everywhere: in MLflow, in file names, in messages."""
        return f"{self.sampler.name}-seed{self.training.seed}"


@dataclass(frozen=True, kw_only=True)
class ResourceConfig:
    """What a trial reserves on its machine.

    Three of these can change a run's numbers: ``threads`` and ``workers_per_trial`` by the order of float sums, and
    ``gpus_per_trial`` by its device, also by ``training.precision``. A run of ``isod train`` reserves nothing and
    uses ``decode_workers``, ``threads`` and ``checkpoint_share`` alone.
    """

    workers_per_trial: int = 1  # processes that share every batch of a trial, each with the CPUs and GPUs below
    decode_workers: int = 2  # processes per trial that read and decode crops
    cpus_per_worker: float = 1.0  # CPUs that each decode worker reserves
    cpus_per_trial: float = 1.0  # CPUs that the training process reserves
    gpus_per_trial: float = 0.0  # GPUs per training process: 0.25 shares one among four trials, 0 trains on the CPU
    threads: int = 1  # torch's CPU threads in the training process
    checkpoint_share: float = 0.01  # share of the training time that checkpoints may take

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
        """Return how many decode workers have a batch to read while the trainer waits for the batch of step t.

        On a CPU the scores of steps ≤ t − 1 have arrived by then, so batches t … t + lag can be read. On a GPU step
        t − 1 still computes while batch t is fetched, so the last one is t − 1 + lag.
        """
        return min(self.decode_workers, max(1, lag) if self.gpus_per_trial > 0 else lag + 1)

    def check_batch(self, batch_size: int) -> None:
        """Raise InputError, with the arithmetic, if the workers of a trial cannot get equal parts of a batch."""
        workers = self.workers_per_trial
        size, rest = divmod(batch_size, workers)
        if rest:
            raise InputError(
                f"a batch of {batch_size} crops has no {workers} equal parts ({workers} × {size} + {rest}):"
                f" set --batch-size {max(1, size) * workers}, or another --workers-per-trial"
            )

    def check_regions(self, regions: RegionConfig) -> None:
        """Raise InputError if the workers of a trial cannot share what chooses the regions that train."""
        require(
            self.workers_per_trial == 1 or regions.method != "pisa",
            "regions.method 'pisa' ranks the objects of a whole batch, of which each worker of a trial has a part: "
            "workers_per_trial must be 1",
            self.workers_per_trial,
        )

    def check_sampler(self, sampler: SamplerConfig) -> None:
        """Raise InputError if the workers of a trial cannot share what a sampler does."""
        require(
            self.workers_per_trial == 1 or sampler.candidates == 1,
            f"sampler {sampler.name!r} chooses among the candidates of a whole step, of which each worker of a trial "
            "has a part: workers_per_trial must be 1",
            self.workers_per_trial,
        )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A size of a run, and of a sweep of such runs."""

    detector: DetectorConfig
    training: TrainingConfig
    resources: ResourceConfig
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    seeds: int  # runs per sampler
