"""Network and optimizer of one run: one step, one validation (thesis §4.5)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from isod.config.settings import RunConfig, TrainingConfig
from isod.data.store.crops import Crops
from isod.data.store.meta import StoreMeta
from isod.detector.batch_norm import over_all_ranks
from isod.detector.boxes import within
from isod.detector.model import build_detector, configure_loss
from isod.errors import InputError
from isod.evaluation.evaluator import DetectionEvaluator
from isod.objects import Objects
from isod.outcome import Outcome
from isod.sampling import sample_scores
from isod.sampling.catalogue import check_available, find_selection, prior_observes
from isod.sampling.scores.observations import observations
from isod.sampling.table import Draw
from isod.training.decode import decode_batch
from isod.training.predictor import ScorePredictor
from isod.training.ranks import gather_step, highest_of_ranks, sum_gradients, sum_over_ranks
from isod.training.statistics import StepResult, example_losses, object_margins
from isod.training.stream import WHOLE_BATCH, Batch, BatchPart
from isod.training.validation import ValidationCrops

# Which of the seed's random streams mirrors crops, chooses among candidates, and is the network's; the draws have
# their own.
FLIP_STREAM, SELECTION_STREAM, NETWORK_STREAM = 1, 3, 4


def flips(config: TrainingConfig, step: int, candidates: int = 1) -> NDArray[np.bool_]:
    """[B · candidates] bool, which slots of what the step draws are mirrored; the same for every sampler of one seed
    and number of candidates."""
    return np.random.default_rng([config.seed, FLIP_STREAM, step]).random(candidates * config.batch_size) < 0.5


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Of the optimizer at ``step`` (from 0). Cosine: lr · (1 + cos(π·step/T)) / 2, and 0 from step T on, T being
    ``lr_decayed_at`` of the iterations (Loshchilov & Hutter 2017, eq. 5, without restarts). In the warm-up either is
    multiplied by (step + 1) / warmup."""
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
    if config.lr_schedule == "constant":
        return rate
    progress = min(1.0, step / (config.lr_decayed_at * config.iterations))
    return rate * (1 + math.cos(math.pi * progress)) / 2


def precision_on(device: torch.device, asked: str) -> str:
    """Return what passes compute in on a device: what is asked for, or "auto" in words."""
    automatic = "bfloat16" if device.type == "cuda" else "float32"
    return automatic if asked == "auto" else asked


def averaged(model: torch.nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and running statistics.

    After n updates it moves by 1 − min(decay, (1 + n) / (10 + n)) of the way, so that the initial weights are soon
    forgotten; whole numbers are those of the model.
    """

    def move(means: Any, values: Any, count: Any) -> None:  # two lists of tensors, all of one type
        if means[0].is_floating_point():
            n = int(average.n_averaged)  # which stays on the CPU; ``count`` is a copy on the device, slow to read back
            torch._foreach_lerp_(means, values, 1 - min(decay, (1 + n) / (10 + n)))
        else:
            torch._foreach_copy_(means, values)

    average = AveragedModel(model, multi_avg_fn=move, use_buffers=True)
    return average


class Loaded(NamedTuple):
    """What a step reads of a batch's crops."""

    images: Tensor  # [B, 3, H, W] uint8 in channels-last memory, on the device
    objects: Objects  # on the device
    unreadable: NDArray[np.bool_]  # [B]; crops that did not decode, black and without objects


def to_device(crops: Crops, size: tuple[int, int], device: torch.device) -> Loaded:
    """Crops on their way to the device, moved without waiting for the host; or decoded there if they are not yet.

    Args:
        size: (H, W), pixels.
    """
    if crops.images.ndim == 2:
        images, bad = decode_batch(crops.images, size, device)
        crops = crops.quarantined(bad)
    else:
        # one copy out of Ray's read-only shared memory, into pages that the GPU fetches from while the host works
        pixels = torch.empty(crops.images.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        pixels.numpy()[...] = crops.images
        images = pixels.permute(0, 3, 1, 2).to(device, non_blocking=True)  # HWC is channels-last
    return Loaded(images, crops.objects.to(device), crops.unreadable)


def _with_predicted(
    predicted: NDArray[np.float64],
    chosen: NDArray[np.int64],
    of_trained: NDArray[np.float64],
    indices: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Numbers of all candidates [R, B], predicted scores and NaN where they did not train; and which did [B].

    A candidate whose example trained in another place has the score that was measured there.

    Args:
        predicted: [B], scores of the candidates.
        chosen: [b], places of those that trained.
        of_trained: [R, b], numbers of these, the scores first.
        indices: [B], examples of the candidates.
    """
    rows = np.full((len(of_trained), len(predicted)), np.nan)
    rows[0] = predicted
    for place, score in zip(chosen, of_trained[0], strict=True):
        rows[0, indices == indices[place]] = score
    rows[:, chosen] = of_trained
    return rows, np.isin(np.arange(len(predicted)), chosen)


class Trainer:
    """Network, optimizer and evaluator of one run.

    Args:
        config: what to run.
        meta: of the store: class names and crop size.
        device: where to run.
        part: of every batch that this process trains on. Where it is not the whole, every rank of torch.distributed's
            default group has a trainer, and every step is taken by all of them together.
        class_weights: [C + 1], for a sampler whose reduction weighs classes; see ``isod.sampling.priors``.
        offset: [N], hold-out scores that a choice among candidates subtracts; None for nothing.
    """

    def __init__(
        self,
        config: RunConfig,
        meta: StoreMeta,
        device: torch.device,
        part: BatchPart = WHOLE_BATCH,
        class_weights: NDArray[np.float64] | Tensor | None = None,
        offset: NDArray[np.float64] | None = None,
    ) -> None:
        self.config = config
        self.meta = meta
        self.device = device
        self.part = part
        weights = class_weights
        self.class_weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=device)
        self._observes = prior_observes(config.sampler.prior)
        self._offset = offset
        self._selection = find_selection(config.sampler.selection) if config.sampler.candidates > 1 else None
        training = config.training
        self._predictor = ScorePredictor(training.seed, device) if config.sampler.scorer == "predictor" else None
        model = build_detector(config.detector, len(meta.class_names), seed=training.seed)
        check_available(config.sampler.heuristic, getattr(model, "provides", frozenset()), config.detector.name)
        configure_loss(model, training, sum_counts=sum_over_ranks if part.ranks > 1 else None)
        if part.ranks > 1:
            over_all_ranks(model)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self._average = averaged(self.model, training.ema) if training.ema else None
        self.compiled = training.compiled and part.ranks == 1  # then the first step takes a minute
        if self.compiled:
            torch.compiler.reset()  # what an earlier run of this process compiled counts against a limit
            self.model.compile(dynamic=False)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=training.lr, betas=training.betas, eps=training.eps, fused=True
        )

    @property
    def evaluated(self) -> Any:
        """The detector that is validated and saved: of the averaged weights where the settings ask for them."""
        return self.model if self._average is None else self._average.module

    @property
    def precision(self) -> str:
        """What the passes compute in, float32 or bfloat16; weights, losses and scores are float32 all the same."""
        return precision_on(self.device, self.config.training.precision)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    @contextlib.contextmanager
    def _random_numbers(self, step: int) -> Iterator[None]:
        """Let what the network draws from torch's generators, for dropout say, depend on seed, step and rank alone."""
        numbers = [self.config.training.seed, NETWORK_STREAM, step, self.part.rank]
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
            yield

    def load(self, batch: Batch) -> Loaded:
        """The batch's crops, on the way to the device. On a GPU they travel beside what it computes."""
        with torch.cuda.stream(self._copies) if self._copies is not None else contextlib.nullcontext():
            return to_device(batch.crops, self.meta.crop_size, self.device)

    def step(
        self, batch: Batch, loaded: Loaded | None = None, while_computing: Callable[[], None] = lambda: None
    ) -> StepResult:
        """One optimizer step. All that it returns is one copy to the host; the scores of candidates are one more.

        A crop that did not decode weighs nothing in the loss and scores 0.

        Where the sampler chooses among candidates, these are scored in evaluation mode: no running statistics move, and
        what trains is one batch alone.

        Args:
            loaded: what ``load`` made of the batch, if it was called before.
            while_computing: called once all of the pass is under way on the device, before its numbers are waited for.
        Raises:
            FloatingPointError: if the loss is not finite; the weights are then those before the step.
        """
        training = self.config.training
        images, objects, unreadable = loaded or self.load(batch)
        if self._copies is not None:
            present = torch.cuda.current_stream(self.device)
            present.wait_stream(self._copies)
            for tensor in (images, objects.boxes, objects.labels, objects.dont_care, objects.counts):
                tensor.record_stream(present)
        if training.flip:
            mirrored = flips(training, batch.step, self.config.sampler.candidates)
            flip = torch.from_numpy(self.part.of(mirrored)).to(self.device)
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
            objects = objects.mirrored(flip, images.shape[-1])
        weights = chosen = measured = None
        shares = np.where(unreadable, 0.0, self.part.of(batch.draw.weights))
        if self._selection is not None:
            host_rows = self._score_candidates(images, objects)
            chosen, factors = self._choose(batch, np.where(unreadable, 0.0, host_rows[0]))
            place = torch.from_numpy(chosen).to(self.device)
            images, objects = images[place].contiguous(memory_format=torch.channels_last), objects[place]
            shares = shares[chosen] * factors
        self.model.train()
        if (shares != 1).any():
            weights = torch.from_numpy(shares).to(self.device)
        with self._autocast(), self._random_numbers(batch.step):
            loss, outcome = self.model.loss(images, objects, example_weights=weights)
        total = training.class_weight * loss.class_loss + training.box_weight * loss.box_loss
        if loss.extra is not None:
            total = total + loss.extra
        self.optimizer.zero_grad()
        total.backward()
        rows = self._rows(outcome) if chosen is None or self._predictor is not None else None
        losses = torch.stack([total, loss.class_loss, loss.box_loss]).detach()
        if self.part.ranks > 1:
            sum_gradients(self.model.parameters())
        while_computing()
        if rows is None:
            host_losses = losses.cpu().double().numpy()
        elif self.part.ranks > 1:
            host_rows, host_losses, unreadable = gather_step(rows, losses, unreadable)
        else:
            values = torch.cat([rows.flatten(), losses]).cpu().double().numpy()
            of_trained, host_losses = values[:-3].reshape(len(rows), -1), values[-3:]
            if chosen is None:
                host_rows = of_trained
            else:
                host_rows, measured = _with_predicted(host_rows[0], chosen, of_trained, batch.draw.indices)
        total_loss, class_loss, box_loss = host_losses.tolist()
        if not math.isfinite(total_loss):
            raise FloatingPointError(
                f"loss is {total_loss} at step {batch.step}, examples {batch.draw.indices.tolist()}"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training, batch.step)
        self.optimizer.step()
        if self._predictor is not None and rows is not None:
            self._predictor.fit(images, rows[0])
        if self._average is not None:
            self._average.update_parameters(self.model)
        return StepResult(
            scores=np.where(unreadable, 0.0, host_rows[0]),
            class_losses=host_rows[1],
            box_losses=host_rows[2],
            margins=host_rows[3],
            losses={"train/loss": total_loss, "train/class_loss": class_loss, "train/box_loss": box_loss},
            unreadable=unreadable,
            observed=np.where(unreadable[:, None], np.nan, host_rows[4:].T) if self._observes else None,
            chosen=chosen,
            measured=measured,
        )

    def _rows(self, outcome: Outcome) -> Tensor:
        """[R, B], what the host wants to know of each example: the fields of StepResult, one after the other."""
        scores = sample_scores(outcome, self.config.sampler, self.class_weights)
        rows = torch.stack([scores, *example_losses(outcome), object_margins(outcome)])
        if self._observes:
            seen = observations(outcome, self._observes)  # [B, M + 2]
            if self.part.ranks > 1:
                seen = self._as_wide_as_the_others(seen)
            rows = torch.cat([rows, seen.T])
        return rows

    @torch.no_grad()
    def _score_candidates(self, images: Tensor, objects: Objects) -> NDArray[np.float64]:
        """``_rows`` of one forward pass in evaluation mode, on the host; of a predictor the scores alone, [1, B]."""
        if self._predictor is not None:
            return self._predictor.predict(images).unsqueeze(0).cpu().double().numpy()
        self.model.eval()
        with self._autocast():
            _, outcome = self.model.loss(images, objects)
        return self._rows(outcome).cpu().double().numpy()

    def _choose(self, batch: Batch, scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places among the candidates [b] and weights [b] of those that train.

        Less a hold-out model's score, as in the table; a score of 0, of which nothing can be learnt, stays the lowest.
        """
        assert self._selection is not None
        if not np.isfinite(scores).all():
            raise FloatingPointError(
                f"a score is {scores[~np.isfinite(scores)][0]} at step {batch.step}, examples "
                f"{batch.draw.indices.tolist()}"
            )
        if self._offset is not None:
            scores = np.where(scores > 0, scores - self._offset[batch.draw.indices], -np.inf)
        rng = np.random.default_rng([self.config.training.seed, SELECTION_STREAM, batch.step])
        return self._selection(scores, len(scores) // self.config.sampler.candidates, rng)

    def _as_wide_as_the_others(self, seen: Tensor) -> Tensor:
        """[b, M + 2] with NaN for the objects that other ranks' parts have more of; the last two columns stay last."""
        missing = highest_of_ranks(seen.shape[1], self.device) - seen.shape[1]
        return torch.cat([seen[:, :-2], seen.new_full((len(seen), missing), math.nan), seen[:, -2:]], dim=1)

    def largest_batch(self, batch: Batch) -> int:
        """How many crops of this process's part fit where they were too many, by trying half, a quarter …; 0 if not
        even one does.
        """
        size = len(batch.crops.indices) // self.config.sampler.candidates // 2
        while size:
            try:
                with contextlib.suppress(FloatingPointError):  # that is no question of memory
                    self._try(batch, size)
                return size
            except torch.OutOfMemoryError:
                size //= 2
        return 0

    def _try(self, batch: Batch, size: int) -> None:
        """Two steps of another trainer, alone and not compiled, in batches of ``size`` of these crops: the first takes
        the optimizer's own memory, so the second has what every later one has; the batch that comes next is there too,
        and what compiling takes where the run is compiled."""
        draw, drawn = batch.draw, size * self.config.sampler.candidates
        indices, probabilities, weights = (
            self.part.of(values)[:drawn] for values in (draw.indices, draw.probabilities, draw.weights)
        )
        crops = batch.crops.without(np.arange(len(batch.crops.indices)) >= drawn)
        batch = Batch(batch.step, Draw(indices, probabilities, weights, draw.step, draw.version), crops)
        room = 0  # torch.compile overwrites as much memory as there is L2 cache while it times kernels
        if self.compiled and self.device.type == "cuda":
            room = torch.cuda.get_device_properties(self.device).L2_cache_size
        held = torch.empty(room, dtype=torch.uint8, device=self.device)
        training = replace(self.config.training, batch_size=size, compiled=False)
        config = replace(self.config, training=training)
        trainer = type(self)(config, self.meta, self.device, class_weights=self.class_weights)
        following = []
        for _ in range(2):
            trainer.step(batch, while_computing=lambda: following.append(trainer.load(batch)))
            del following[:-1]
        del held

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, and averaged weights and predictor where there are such; and the precision."""
        parts = {"model": self.model, "optimizer": self.optimizer, "average": self._average,
                 "predictor": self._predictor}  # fmt: skip
        states = {name: part.state_dict() for name, part in parts.items() if part is not None}
        return {**states, "precision": self.precision}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken. Raises InputError if that was in another precision."""
        before = state.get("precision", self.precision)  # versions before did not record it
        if before != self.precision:
            raise InputError(
                f"the run's checkpoint is of passes in {before}, and on this device they are in {self.precision}: "
                f"resume on a device as before, or begin anew with training.precision={before}"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._predictor is not None:
            self._predictor.load_state_dict(state["predictor"])

    @torch.inference_mode()
    def outcome(self, crops: Crops) -> Outcome:
        """What the evaluated weights make of crops that are not trained on, in evaluation mode."""
        model = self.evaluated.eval()
        images, objects, _ = to_device(crops, self.meta.crop_size, self.device)
        with self._autocast():
            return model.loss(images, objects)[1]

    @torch.inference_mode()
    def score(self, crops: Crops) -> NDArray[np.float64]:
        """The sampler's scores [B] of crops that are not trained on, in evaluation mode."""
        return sample_scores(self.outcome(crops), self.config.sampler, self.class_weights).cpu().double().numpy()

    @torch.inference_mode()
    def validate(self, crops: ValidationCrops) -> dict[str, float]:
        """Every metric of spec §8 on the validation split; NaN where a stratum has no ground truth."""
        model = self.evaluated.eval()
        evaluator = DetectionEvaluator(
            self.meta.class_names,
            image_size=self.meta.crop_size,
            display_threshold=self.config.detector.display_threshold,
        )
        for batch in crops:
            images = to_device(batch, self.meta.crop_size, self.device).images
            with self._autocast():
                detections = model.detect(images)
            sizes = crops.sizes[batch.indices]
            detections = [within(found, *size) for found, size in zip(detections, sizes.tolist(), strict=True)]
            evaluator.update(detections, batch.objects, image_sizes=sizes)
        return evaluator.compute()
