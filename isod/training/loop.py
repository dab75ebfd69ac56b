"""One run: one sampler, one seed, one visible loop (thesis §4.5). Knows nothing of Ray or MLflow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from isod.config.settings import TrainingConfig
from isod.errors import InputError
from isod.sampling.catalogue import strategy_properties
from isod.signals import ctrl_c_waits
from isod.training.checkpoint import Checkpoints
from isod.training.statistics import RunStatistics, StepResult
from isod.training.stream import Batch, Stream
from isod.training.trainer import Loaded, Trainer
from isod.training.validation import ValidationCrops
from isod.vocabulary import CPU_SECONDS, SECONDS, UNIFORM_ABOVE, ess_in_words

log = logging.getLogger(__name__)

OnStep = Callable[[int], None]

FREE = "free memory on the device: let fewer runs share it, or prepare smaller crops"  # where no smaller batch helps


def train(
    trainer: Trainer,
    stream: Stream,
    validation: ValidationCrops,
    report: Callable[[dict[str, float], int], None],
    *,
    record: RunStatistics | None = None,
    checkpoints: Checkpoints | None = None,
    on_step: OnStep = lambda iteration: None,
) -> RunStatistics:
    """The loop: fetch, step, send scores back, sometimes validate, report and write a checkpoint.

    Where several processes share the run, this is rank 0's, and the others ``follow``.

    Args:
        report: called with the metrics and the number of iterations done, at every multiple of ``validate_every`` and
            after the last iteration. Training losses are means since the last report; ``time/seconds`` is training time
            from the first batch on (the second one, where the first compiles), without validation; on a CPU
            ``time/cpu_seconds`` is the process's processor time in it.
        record: of this run; a fresh one if not given. Training continues after its ``iteration`` steps.
        checkpoints: written after a report, and when the run is interrupted (KeyboardInterrupt), for which a Ctrl-C
            waits until the step or the write under way is done; none if not given.
        on_step: called after each step, before a validation, with the number of iterations done.
    Returns:
        The record at the end.
    """
    training = trainer.config.training
    record = record or RunStatistics(stream.num_examples)
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
                SECONDS: record.seconds,
            }
            if trainer.device.type == "cpu":
                metrics[CPU_SECONDS] = record.cpu_seconds
            if summary.primed and not record.warned:
                record.warned = True
                sampler = trainer.config.sampler
                in_proportion = sampler.heuristic and strategy_properties(sampler.strategy).draws_in_proportion
                if in_proportion and summary.effective_sample_size > UNIFORM_ABOVE:
                    ess = summary.effective_sample_size
                    words = ess_in_words(ess)
                    log.info("effective sample size over N once all have a score: %.2f, %s", ess, words)
            report(metrics, done)
            if checkpoints is not None and (done == training.iterations or checkpoints.due(record.seconds)):
                save()

    between_steps, compiling = True, trainer.compiled
    try:
        if record.iteration > record.reported and validates_after(record.iteration, training):
            validate()  # a Ctrl-C came in the middle of this one
        feed = BatchFeed(trainer, stream, record.iteration)
        for batch, loaded in feed:
            if not compiling:
                clock.start()  # at the first batch, as a stream takes seconds to start, once
            with ctrl_c_waits():
                between_steps = False
                result = _step(trainer, batch, loaded, feed.fetch)
                stream.send_scores(batch.step, batch.draw.indices, result.scores, result.observed)
                record.add(batch.draw.indices, result)
                between_steps = True
            compiling = False
            if result.unreadable.any():
                _log_unreadable(batch.draw.indices[result.unreadable], record)
            on_step(record.iteration)
            if validates_after(record.iteration, training):
                validate()
            clock.start()
    except (KeyboardInterrupt, BrokenPipeError):  # of a pipe, to `head` for example, that a report is written to
        if between_steps:  # in the middle of one, the network's running statistics are ahead of its weights
            with ctrl_c_waits():
                save()
        raise
    return record


def validates_after(iteration: int, training: TrainingConfig) -> bool:
    """Whether a validation follows that many steps."""
    return iteration % training.validate_every == 0 or iteration == training.iterations


class Clock:
    """Adds to the record's seconds, and processor seconds, those from each ``start`` to the ``stop`` that follows."""

    def __init__(self, record: RunStatistics) -> None:
        self._record = record
        self._began: tuple[float, float] | None = None

    def start(self) -> None:
        """No-op if running."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """No-op if not running."""
        if self._began is not None:
            self._record.seconds += time.perf_counter() - self._began[0]
            self._record.cpu_seconds += time.process_time() - self._began[1]
            self._began = None


def follow(trainer: Trainer, stream: Stream, start: int) -> None:
    """The loop of every rank but 0, which alone validates, reports metrics and writes checkpoints.

    Args:
        start: steps done before.
    """
    feed = BatchFeed(trainer, stream, start)
    for batch, loaded in feed:
        result = _step(trainer, batch, loaded, feed.fetch)
        stream.send_scores(batch.step, batch.draw.indices, result.scores, result.observed)


def fetches_early(device: torch.device, lag: int) -> bool:
    """Whether the next batch is fetched before the present step's scores are known, which the lag must allow."""
    return device.type == "cuda" and lag >= 1


class BatchFeed:
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


def _step(trainer: Trainer, batch: Batch, loaded: Loaded | None, while_computing: Callable[[], None]) -> StepResult:
    """The trainer's step; out of memory becomes the sentence that says what to do."""
    try:
        return trainer.step(batch, loaded, while_computing)
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


def _log_unreadable(indices: NDArray[np.int64], record: RunStatistics) -> None:
    """Log each crop that does not decode, once."""
    for index in set(indices.tolist()) - record.unreadable:
        record.unreadable.add(index)
        log.warning(
            "the image of training example %s does not decode: it keeps its index, loss weight 0, score 0 (%s so far)",
            index,
            len(record.unreadable),
        )
