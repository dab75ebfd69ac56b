"""Settings: frozen dataclasses, and the named samplers and presets as plain dicts.

A variant is ``dataclasses.replace(base, lag=0)``. A wrong value is refused here, before anything starts, with the rule
and the value it broke.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from isod.errors import InputError


def require(condition: bool, rule: str, value: object) -> None:
    """Raise InputError("<rule>, got <value>") unless the condition holds."""
    if not condition:
        raise InputError(f"{rule}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """The network and its inference (thesis §4.1)."""

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
HEURISTICS = (
    "loss", "error", "uncertainty", "uncertainty_as_printed", "asymmetric_uncertainty", "bounded_error",
    "error_vector_norm", "gradient_norm", "margin", "background_aware",
)  # fmt: skip
REDUCTIONS = ("mean", "sum", "max", "rms", "area_mean", "masked_mean", "norm")
STRATEGIES = (
    "sequential", "proportional", "rejection", "uniform_rejection", "shifted", "decayed", "rank", "linear_rank",
    "self_paced", "prune", "replace",
)  # fmt: skip
SIGNED = ("shifted", "rank", "linear_rank", "self_paced")  # strategies that bear scores below 0
HISTORIES = ("latest", "momentum", "mean", "variance", "closeness", "forgetting")


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
class SamplerConfig:
    """How training examples are drawn: heuristic + reduction + strategy + smoothing + task weights (spec §2)."""

    name: str
    heuristic: str | None = None  # one of HEURISTICS; None for a sampler that reads no scores
    reduction: str = "mean"  # one of REDUCTIONS (§4.2.4)
    strategy: str = "proportional"  # one of STRATEGIES
    class_weight: float = 1.0  # w_cls: weight of the class part of the sample score
    box_weight: float = 1.0  # w_reg: weight of the box part; 0 is the thesis's "regression ignored" (§4.3)
    smoothing: float = 1.0  # multiple of eq. 4.3's bias (1/N²)Σs that is added to every score at draw time
    floor: float = 0.0  # λ: share of the probability that is uniform, λ/N + (1 − λ)·p_i
    history: str = "latest"  # what an example's scores add up to; one of HISTORIES
    momentum: float = 0.0  # of history "momentum": importance = momentum · importance + (1 − momentum) · score
    holdout: bool = False  # subtract the hold-out model's score of each example (RHO, §4.2.6)
    weight_exponent: float = 0.0  # the example's loss is multiplied by (1/(N·p))^exponent; 1 undoes the bias of drawing
    half_life: float = 1000.0  # of strategy "decayed": updates after which a score counts half, the mean score half
    pressure: float = 100.0  # of strategy "rank": how many times as likely the highest score is as the lowest
    share: float = 0.5  # of the examples: pruned below the mean ("prune"), replaced ("replace"), let in ("self_paced")
    horizon: float = 0.0  # of the run's draws: when "self_paced" has let in all, when "prune" stops pruning; 0: never
    source: str = field(default="", compare=False)  # where it is from, in a phrase; it changes no run

    def __post_init__(self) -> None:
        for name, known in (
            ("heuristic", HEURISTICS),
            ("reduction", REDUCTIONS),
            ("strategy", STRATEGIES),
            ("history", HISTORIES),
        ):
            value = getattr(self, name)
            allowed = value in known or (name == "heuristic" and value is None)
            require(allowed, f"sampler {name} must be one of {', '.join(known)}", value)
        require(
            not self.holdout or self.strategy in SIGNED,
            f"sampler holdout makes scores negative, so that strategy must be one of {', '.join(SIGNED)}",
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


_SMALL_DETECTOR = DetectorConfig(width=0.25, blocks=(1, 1, 1, 1))
_SMALL_HOLDOUT = HoldoutConfig(batch_size=32, detector=DetectorConfig(width=0.125, blocks=(1, 1, 1, 1)))

PRESETS: dict[str, Preset] = {
    # two CPU cores, minutes: demo data at an eighth of the far region's size
    "demo": Preset(
        detector=_SMALL_DETECTOR,
        training=TrainingConfig(iterations=450, batch_size=32, validate_every=50, lag=2),
        resources=ResourceConfig(decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75),
        holdout=_SMALL_HOLDOUT,
        seeds=2,
    ),
    # two CPU cores, hours: real images of about 256×144
    "small": Preset(
        detector=_SMALL_DETECTOR,
        training=TrainingConfig(iterations=1500, batch_size=32, validate_every=75, lag=2, flip=True),
        resources=ResourceConfig(decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75),
        holdout=replace(_SMALL_HOLDOUT, epochs=30),
        seeds=5,
    ),
    # a GPU, minutes a run: real images of about 512×288, at the thesis's depth and width. A run alone does not fill the
    # GPU: it waits for its validations and for its host, so several share one. Nor do its processes fill three cores:
    # the trainer waits for its crops, and then they for its validation.
    "medium": Preset(
        detector=DetectorConfig(),
        training=TrainingConfig(iterations=1500, batch_size=64, validate_every=75, flip=True, compiled=True),
        resources=ResourceConfig(decode_workers=2, cpus_per_worker=0.5, cpus_per_trial=0.5, gpus_per_trial=0.2),
        holdout=HoldoutConfig(epochs=30),
        seeds=5,
    ),
    # §4.5 to the letter: 350 epochs of 703 batches, about 246 thousand iterations; a lag that feeds every worker
    "thesis": Preset(
        detector=DetectorConfig(),
        training=TrainingConfig(iterations=350 * 703, validate_every=703, lag=10, compiled=True),
        resources=ResourceConfig(decode_workers=6, cpus_per_trial=1.0, gpus_per_trial=1.0),
        seeds=10,
    ),
}


def flatten(config: RunConfig) -> dict[str, str | int | float | bool]:
    """The run's settings under dotted names, as MLflow parameters and config.json hold them: ``training.lr`` …

    All but the sampler's source, which changes no run.
    """
    flat: dict[str, str | int | float | bool] = {}
    sections = asdict(config)
    del sections["sampler"]["source"]
    for section, values in sections.items():
        for key, value in values.items():
            flat[f"{section}.{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return flat


DEFAULTS = flatten(RunConfig(sampler=SamplerConfig(name="")))
CONTENTS = "store.contents"  # beside these: what the run's store holds, in words


def changes(before: Mapping[str, object], now: Mapping[str, object]) -> str:
    """Which settings differ, as "lr was 0.1 and is 0.2, …"; empty if none does.

    A setting that an older version had not recorded is newer than it, and its default is what that version did; what
    its store held is not known, and so taken to be the same.
    """
    known = {**DEFAULTS, CONTENTS: now.get(CONTENTS)}
    newer = {name: known[name] for name in known.keys() & (now.keys() - before.keys())}
    before = {name: str(value) if isinstance(now[name], str) else value for name, value in newer.items()} | {**before}
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(f"{name} was {before.get(name)} and is {now.get(name)}" for name in names)
