"""One run: one sampler, one seed, one visible loop (thesis §4.5). Knows nothing of Ray or MLflow."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isod.config import RunConfig, TrainingConfig, require
from isod.data.store import Crops, CropSplit, StoreMeta
from isod.detector import Detector, Objects, detect, detection_loss
from isod.detector.batch_norm import over_all_ranks
from isod.errors import InputError
from isod.evaluation.evaluator import DetectionEvaluator
from isod.sampling import sample_scores
from isod.sampling.gain import IN_PROPORTION, UNIFORM_ABOVE, ess_in_words
from isod.sampling.table import Draw
from isod.signals import ctrl_c_waits
from isod.training.checkpoint import Checkpoints
from isod.training.decode import decode_batch
from isod.training.measure import example_losses, object_margins
from isod.training.ranks import gather_step, sum_gradients, sum_over_ranks
from isod.training.record import RunRecord, StepResult
from isod.training.stream import WHOLE, Batch, Part, Stream

CACHE_BYTES = 512 * 2**20  # decoded validation crops are kept in memory up to this size
FREE = "free memory on the device: let fewer runs share it, or prepare smaller crops"  # where no smaller batch helps
FLIP_STREAM = 1  # which of the seed's random streams mirrors crops; the draws have their own


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises InputError if CUDA is asked for and is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    require(name == "cpu" or torch.cuda.is_available(), "device must be cpu where torch sees no CUDA GPU", name)
    return torch.device(name)


def flips(config: TrainingConfig, step: int) -> NDArray[np.bool_]:
    """[B] bool, which slots of the step's batch are mirrored; the same for every sampler of one seed."""
    return np.random.default_rng([config.seed, FLIP_STREAM, step]).random(config.batch_size) < 0.5


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Of the optimizer at ``step`` (from 0). Cosine: lr · (1 + cos(π·step/T)) / 2, and 0 from step T on, T being
    ``lr_decayed_at`` of the iterations (Loshchilov & Hutter 2017, eq. 5, without restarts)."""
    if config.lr_schedule == "constant":
        return config.lr
    progress = min(1.0, step / (config.lr_decayed_at * config.iterations))
    return config.lr * (1 + math.cos(math.pi * progress)) / 2


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
        # one copy out of Ray's read-only shared memory, into pages that the GPU can fetch from while the host goes on
        pixels = torch.empty(crops.images.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        pixels.numpy()[...] = crops.images
        images = pixels.permute(0, 3, 1, 2).to(device, non_blocking=True)  # HWC is channels-last
    objects = Objects.from_lists(crops.boxes, crops.labels, crops.dont_care)
    return Loaded(images, objects.to(device), crops.unreadable)


def in_batches(indices: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """The indices in order, in as few nearly equal parts as hold at most ``batch_size`` each; at least one part."""
    return np.array_split(indices, max(1, -(-len(indices) // batch_size)))


def read_ahead(
    split: CropSplit, batches: Sequence[NDArray[np.int64]], *, threads: int, quarantine: bool = False
) -> Iterator[Crops]:
    """The crops of each batch of indices, in order; while one batch is in use the next one is read.

    Args:
        batches: at least one.
        threads, quarantine: as in ``CropSplit.read``.
    """
    read = partial(split.read, threads=threads, quarantine=quarantine)
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, batches[0])
        for following in batches[1:]:
            crops = ahead.result()
            ahead = reader.submit(read, following)
            yield crops
        yield ahead.result()


class ValidationCrops:
    """The validation split in fixed batches; decoded once where it fits in memory.

    A crop that does not decode is left out, and told.

    Args:
        threads: how many decode.
        say: where to tell.
    """

    def __init__(
        self, split: CropSplit, batch_size: int, *, threads: int = 1, say: Callable[[str], None] = print
    ) -> None:
        self._say = say
        self._threads = threads
        self._unreadable: set[int] = set()
        self._split = split
        self.sizes = split.sizes()  # [N, 2] height and width of each crop, pixels, without padding
        self.batch_size = batch_size
        self._batches = in_batches(split.readable, batch_size)
        self._cache: list[Crops] | None = []

    def __iter__(self) -> Iterator[Crops]:
        if self._cache:
            yield from self._cache
            return
        kept: list[Crops] = []
        for crops in read_ahead(self._split, self._batches, threads=self._threads, quarantine=True):
            if crops.unreadable.any():
                self._tell(crops)
                crops = crops.without(crops.unreadable)
            if self._cache is not None:
                kept.append(crops)
                if sum(item.images.nbytes for item in kept) > CACHE_BYTES:
                    self._cache = None
                    kept = []
            yield crops
        if self._cache is not None:
            self._cache = kept

    def _tell(self, crops: Crops) -> None:
        for index in set(crops.indices[crops.unreadable].tolist()) - self._unreadable:
            self._unreadable.add(index)
            self._say(f"the image of validation example {index} does not decode: it is left out of every metric")


class Trainer:
    """Network, optimizer and evaluator of one run.

    Args:
        config: what to run.
        meta: of the store: class names and crop size.
        device: where to run; on CUDA the forward pass is bfloat16 and channels-last.
        part: of every batch that this process trains on. Where it is not the whole, every rank of torch.distributed's
            default group has a trainer, and every step is taken by all of them together.
    """

    def __init__(
        self,
        config: RunConfig,
        meta: StoreMeta,
        device: torch.device,
        part: Part = WHOLE,
    ) -> None:
        self.config = config
        self.meta = meta
        self.device = device
        self.part = part
        training = config.training
        model = Detector(len(meta.class_names), config.detector, seed=training.seed)
        if part.ranks > 1:
            over_all_ranks(model)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self._trained: torch.nn.Module = self.model
        if training.compiled and part.ranks == 1:
            torch.compiler.reset()  # what an earlier run of this process compiled counts against a limit
            self._trained = torch.compile(self.model, dynamic=False)  # type: ignore[assignment]
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=training.lr, betas=training.betas, eps=training.eps, fused=True
        )

    @property
    def compiled(self) -> bool:
        """Whether training runs through torch.compile, whose work the first step does."""
        return self._trained is not self.model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and box offsets of images [B, 3, H, W], as the network's docstring has them; in training mode by
        the compiled network if the run asks for it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return (self._trained if self.model.training else self.model)(images)

    def load(self, batch: Batch) -> Loaded:
        """The batch's crops, on the way to the device. On a GPU they travel beside what it computes."""
        with torch.cuda.stream(self._copies) if self._copies is not None else contextlib.nullcontext():
            return to_device(batch.crops, self.meta.crop_size, self.device)

    def step(
        self, batch: Batch, loaded: Loaded | None = None, meanwhile: Callable[[], None] = lambda: None
    ) -> StepResult:
        """One optimizer step. All that it returns is one copy to the host.

        A crop that did not decode weighs nothing in the loss and scores 0.

        Args:
            loaded: what ``load`` made of the batch, if it was called before.
            meanwhile: called once all of the pass is under way on the device, before its numbers are waited for.
        Raises:
            FloatingPointError: if the loss is not finite; the weights are then those before the step.
        """
        training = self.config.training
        self.model.train()
        images, objects, unreadable = loaded or self.load(batch)
        if self._copies is not None:
            present = torch.cuda.current_stream(self.device)
            present.wait_stream(self._copies)
            for tensor in (images, objects.boxes, objects.labels, objects.dont_care, objects.valid):
                tensor.record_stream(present)
        if training.flip:
            flip = torch.from_numpy(self.part.of(flips(training, batch.step))).to(self.device)
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
            objects = objects.mirrored(flip, images.shape[-1])
        weights = None
        shares = np.where(unreadable, 0.0, self.part.of(batch.draw.weights))
        if (shares != 1).any():
            weights = torch.from_numpy(shares).to(self.device)
        loss, outcome = detection_loss(
            *self.forward(images),
            objects,
            class_weight=training.class_weight,
            box_weight=training.box_weight,
            example_weights=weights,
            normalisation=training.loss_normalisation,
            sum_counts=sum_over_ranks if self.part.ranks > 1 else None,
        )
        self.optimizer.zero_grad()
        loss.total.backward()
        scores = sample_scores(outcome, self.config.sampler)
        rows = torch.stack([scores, *example_losses(outcome), object_margins(outcome)])
        losses = torch.stack([loss.total.detach(), loss.class_loss, loss.box_loss])
        if self.part.ranks > 1:
            sum_gradients(self.model.parameters())
        meanwhile()
        if self.part.ranks > 1:
            host_rows, host_losses, unreadable = gather_step(rows, losses, unreadable)
        else:
            values = torch.cat([rows.flatten(), losses]).cpu().double().numpy()
            host_rows, host_losses = values[:-3].reshape(4, -1), values[-3:]
        total, class_loss, box_loss = host_losses.tolist()
        if not math.isfinite(total):
            raise FloatingPointError(f"loss is {total} at step {batch.step}, examples {batch.draw.indices.tolist()}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(training, batch.step)
        self.optimizer.step()
        return StepResult(
            scores=np.where(unreadable, 0.0, host_rows[0]),
            class_losses=host_rows[1],
            box_losses=host_rows[2],
            margins=host_rows[3],
            losses={"train/loss": total, "train/class_loss": class_loss, "train/box_loss": box_loss},
            unreadable=unreadable,
        )

    def largest_batch(self, batch: Batch) -> int:
        """How many crops of this process's part fit where they were too many, by trying half, a quarter …; 0 if not
        even one does.
        """
        size = len(batch.crops.indices) // 2
        while size:
            try:
                with contextlib.suppress(FloatingPointError):  # that is no question of memory
                    self._try(batch, size)
                return size
            except torch.OutOfMemoryError:
                size //= 2
        return 0

    def _try(self, batch: Batch, size: int) -> None:
        """Two steps of another trainer, alone and not compiled, on the first ``size`` crops: the first one takes the
        optimizer's own memory, so the second has what every later one has; the batch that comes next is there too, and
        what compiling takes where the run is compiled."""
        draw = batch.draw
        indices, probabilities, weights = (
            self.part.of(values)[:size] for values in (draw.indices, draw.probabilities, draw.weights)
        )
        crops = batch.crops.without(np.arange(len(batch.crops.indices)) >= size)
        batch = Batch(batch.step, Draw(indices, probabilities, weights, draw.step, draw.version), crops)
        room = 0  # torch.compile overwrites as much memory as there is L2 cache while it times kernels
        if self.compiled and self.device.type == "cuda":
            room = torch.cuda.get_device_properties(self.device).L2_cache_size
        held = torch.empty(room, dtype=torch.uint8, device=self.device)
        training = replace(self.config.training, batch_size=size, compiled=False)
        trainer = type(self)(replace(self.config, training=training), self.meta, self.device)
        following = []
        for _ in range(2):
            trainer.step(batch, meanwhile=lambda: following.append(trainer.load(batch)))
            del following[:-1]
        del held

    def state_dict(self) -> dict[str, Any]:
        """Network and optimizer."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.inference_mode()
    def score(self, crops: Crops) -> NDArray[np.float64]:
        """The sampler's scores [B] of crops that are not trained on, in evaluation mode."""
        self.model.eval()
        images, objects, _ = to_device(crops, self.meta.crop_size, self.device)
        _, outcome = detection_loss(*self.forward(images), objects)
        return sample_scores(outcome, self.config.sampler).cpu().double().numpy()

    @torch.inference_mode()
    def validate(self, crops: ValidationCrops) -> dict[str, float]:
        """Every metric of spec §8 on the validation split; NaN where a stratum has no ground truth."""
        self.model.eval()
        evaluator = DetectionEvaluator(
            self.meta.class_names,
            image_size=self.meta.crop_size,
            display_threshold=self.config.detector.display_threshold,
        )
        for batch in crops:
            images = to_device(batch, self.meta.crop_size, self.device).images
            detections = detect(*self.forward(images), self.meta.crop_size, self.config.detector)
            targets = [
                {
                    "boxes": torch.from_numpy(boxes),
                    "labels": torch.from_numpy(labels),
                    "dont_care": torch.from_numpy(dont_care),
                    "image_size": torch.from_numpy(crops.sizes[index]),
                }
                for index, boxes, labels, dont_care in zip(
                    batch.indices, batch.boxes, batch.labels, batch.dont_care, strict=True
                )
            ]
            evaluator.update(detections, targets)
        return evaluator.compute()


def train(
    trainer: Trainer,
    stream: Stream,
    validation: ValidationCrops,
    report: Callable[[dict[str, float], int], None],
    *,
    record: RunRecord | None = None,
    checkpoints: Checkpoints | None = None,
    say: Callable[[str], None] = print,
) -> RunRecord:
    """The loop: fetch, step, send scores back, sometimes validate, report and write a checkpoint.

    Where several processes share the run, this is rank 0's, and the others ``follow``.

    Args:
        report: called with the metrics and the number of iterations done, at every multiple of ``validate_every`` and
            after the last iteration. Training losses are means since the last report; ``time/seconds`` is training time
            from the first batch on (the second one, where the first compiles), without validation.
        record: of this run; a fresh one if not given. Training goes on after the ``record.iteration`` steps done.
        checkpoints: written after a report, and when the run is interrupted (KeyboardInterrupt), for which a Ctrl-C
            waits until the step or the write under way is done; none if not given.
        say: where to tell what the person who waits should know.
    Returns:
        The record at the end.
    """
    training = trainer.config.training
    record = record or RunRecord(stream.num_examples)
    clock = Clock(record)

    def save() -> None:
        clock.stop()
        if checkpoints is not None and record.iteration:
            table = stream.state_dict(record.iteration - 1)
            state = {**trainer.state_dict(), "table": table, "record": record.state_dict()}
            checkpoints.save(record.iteration, record.seconds, state)

    def validate() -> None:
        clock.stop()
        found = None
        try:
            found = trainer.validate(validation)
        except torch.OutOfMemoryError as error:
            reason = str(error)  # the failed pass's tensors go with its traceback
        if found is None:
            with ctrl_c_waits():
                save()  # nothing of the training is lost: a resumed run begins with this validation
            where = f"in the validation after iteration {record.iteration}, {validation.batch_size} crops at a time"
            raise out_of_memory(reason, where, FREE)
        with ctrl_c_waits():
            done = record.iteration
            summary = stream.summary(done - 1)
            metrics = {
                **found,
                **record.close_window(),
                "sampler/ess": summary.effective_sample_size if summary.primed else math.nan,
                "time/seconds": record.seconds,
            }
            if summary.primed and not record.warned:
                record.warned = True
                sampler = trainer.config.sampler
                in_proportion = sampler.heuristic and sampler.strategy in IN_PROPORTION
                if in_proportion and summary.effective_sample_size > UNIFORM_ABOVE:
                    ess = summary.effective_sample_size
                    say(f"effective sample size over N once all have a score: {ess:.2f}, {ess_in_words(ess)}")
            report(metrics, done)
            if checkpoints is not None and (done == training.iterations or checkpoints.due(record.seconds)):
                save()

    between_steps, compiling = True, trainer.compiled
    try:
        if record.iteration > record.reported and validates_after(record.iteration, training):
            validate()  # a Ctrl-C came in the middle of this one
        feed = Feed(trainer, stream, record.iteration)
        for batch, loaded in feed:
            if not compiling:
                clock.start()  # at the first batch, as a stream takes seconds to start, once
            with ctrl_c_waits():
                between_steps = False
                result = _step(trainer, batch, loaded, feed.fetch)
                stream.send_scores(batch.step, batch.draw.indices, result.scores)
                record.add(batch.draw.indices, result)
                between_steps = True
            compiling = False
            if result.unreadable.any():
                _tell_unreadable(batch.draw.indices[result.unreadable], record, say)
            if validates_after(record.iteration, training):
                validate()
            clock.start()
    except (KeyboardInterrupt, BrokenPipeError):  # of a pipe, say to `head`, that ``say`` or ``report`` writes to
        if between_steps:  # in the middle of one, the network's running statistics are ahead of its weights
            with ctrl_c_waits():
                save()
        raise
    return record


def validates_after(iteration: int, training: TrainingConfig) -> bool:
    """Whether a validation follows that many steps."""
    return iteration % training.validate_every == 0 or iteration == training.iterations


class Clock:
    """Adds to the record's seconds the time from each ``start`` to the ``stop`` that follows it."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._began: float | None = None

    def start(self) -> None:
        """Does nothing while it runs."""
        if self._began is None:
            self._began = time.perf_counter()

    def stop(self) -> None:
        """Does nothing while it stands."""
        if self._began is not None:
            self._record.seconds += time.perf_counter() - self._began
            self._began = None


def follow(trainer: Trainer, stream: Stream, start: int) -> None:
    """The loop of every rank but 0, which alone validates, reports metrics and writes checkpoints.

    Args:
        start: steps done before.
    """
    feed = Feed(trainer, stream, start)
    for batch, loaded in feed:
        result = _step(trainer, batch, loaded, feed.fetch)
        stream.send_scores(batch.step, batch.draw.indices, result.scores)


def fetches_early(device: torch.device, lag: int) -> bool:
    """Whether the next batch is fetched before the present step's scores are known, which the lag must allow."""
    return device.type == "cuda" and lag >= 1


class Feed:
    """The batches of a run from step ``start`` on, each with what the trainer has loaded of it, or None.

    On a GPU the next one is fetched and copied while the device computes: the draw that it waits for needs no score of
    the step under way, as the lag is 1 or more. So one step of the lag goes to the copy, and decoding has the others.
    """

    def __init__(self, trainer: Trainer, stream: Stream, start: int) -> None:
        training = trainer.config.training
        self._trainer = trainer
        self._batches = iter(stream.batches(start, training.iterations))
        self._early = fetches_early(trainer.device, training.lag)
        self._fetched: list[tuple[Batch, Loaded]] = []  # one, from the middle of a step to the next

    def fetch(self) -> None:
        """Called in the middle of a step."""
        if self._early and (batch := next(self._batches, None)) is not None:
            self._fetched.append((batch, self._trainer.load(batch)))

    def __iter__(self) -> Iterator[tuple[Batch, Loaded | None]]:
        while True:
            while self._fetched:
                yield self._fetched.pop()
            batch = next(self._batches, None)
            if batch is None:
                return
            yield batch, None


def _step(trainer: Trainer, batch: Batch, loaded: Loaded | None, meanwhile: Callable[[], None]) -> StepResult:
    """The trainer's step; out of memory becomes the sentence that says what to do."""
    try:
        return trainer.step(batch, loaded, meanwhile)
    except torch.OutOfMemoryError as error:
        reason = str(error)
    trainer.optimizer.zero_grad()  # the failed step's tensors are gone with its traceback, this is the rest
    ranks = trainer.part.ranks
    fits = ranks * trainer.largest_batch(batch)
    advice = (
        f"{fits} fit: set --batch-size {fits}" if fits else "not even one fits: make the network or the crops smaller"
    )
    size = f"{len(batch.draw.indices)} crops" + (f" on {ranks} workers" if ranks > 1 else "")
    raise out_of_memory(reason, f"at step {batch.step} with a batch of {size}", advice)


def out_of_memory(reason: str, where: str, advice: str) -> InputError:
    """What to raise in place of a torch.OutOfMemoryError.

    Args:
        reason: the error's text.
    """
    return InputError(f"out of memory {where} ({reason.partition('.')[0]}); {advice}")


def _tell_unreadable(indices: NDArray[np.int64], record: RunRecord, say: Callable[[str], None]) -> None:
    """Each crop that does not decode, once."""
    for index in set(indices.tolist()) - record.unreadable:
        record.unreadable.add(index)
        say(
            f"the image of training example {index} does not decode: it keeps its index, weighs nothing and scores 0 "
            f"({len(record.unreadable)} so far)"
        )
