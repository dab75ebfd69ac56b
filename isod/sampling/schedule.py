"""Which updates a draw has seen: the lag alone decides."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from isod.errors import InputError
from isod.sampling.examples import FloatArray, IntArray, as_numpy, as_tensors
from isod.sampling.table import Draw


class Table(Protocol):
    """What the schedule needs of an importance table."""

    def draw(self, n: int) -> Draw: ...
    def update(self, indices: ArrayLike, scores: ArrayLike) -> None: ...
    def checked(self, indices: ArrayLike, scores: ArrayLike) -> tuple[IntArray, FloatArray]: ...
    def observe(self, indices: ArrayLike, probabilities: ArrayLike, observed: ArrayLike) -> None: ...
    def snapshot(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class DrawSchedule:
    """Draws whose draw t has seen exactly the updates of steps ≤ t − 1 − lag, in whatever order these arrive.

    The constructor makes draws 0 … lag. Applying the update of step u makes draw u + 1 + lag. Updates are applied in
    the order of their steps: one that arrives early waits. So the draws are the same with any number of workers that
    prepare batches ahead.

    Args:
        table: drawn from and updated through this schedule alone.
        batch_size: examples per draw.
        lag: how many draws are made ahead of the one in training; ≥ 0.
        steps: draws of the run, so that the table counts none that is not trained on; no end by default.
        epoch: examples of an epoch, whose last draw is the smaller one that completes it; by default no draw is.

    Raises:
        InputError: batch_size < 1, lag < 0 or epoch < 1, or the table cannot draw that many examples.
    """

    def __init__(self, table: Table, *, batch_size: int, lag: int, steps: int | None = None, epoch: int | None = None):
        if batch_size < 1:
            raise InputError(f"batch_size must be ≥ 1, got {batch_size}")
        if lag < 0:
            raise InputError(f"lag must be ≥ 0, got {lag}")
        if epoch is not None and epoch < 1:
            raise InputError(f"epoch must be ≥ 1, got {epoch}")
        self.table, self.batch_size, self.lag, self.epoch = table, batch_size, lag, epoch
        self._steps = float("inf") if steps is None else steps
        self.applied = 0  # updates of steps 0 … applied − 1 are in the table
        self._draws: dict[int, Draw] = {}  # made, and not yet released by their step's update
        # Updates that came before their turn: indices, scores and, where they came, probabilities and observations.
        self._waiting: dict[int, tuple[Any, ...]] = {}
        for step in range(lag + 1):
            self._make(step)

    def _make(self, step: int) -> None:
        if step < self._steps:
            self._draws[step] = self.table.draw(self._size(step))

    def _size(self, step: int) -> int:
        if self.epoch is None:
            return self.batch_size
        done = step % -(-self.epoch // self.batch_size) * self.batch_size  # examples of this epoch before the step
        return min(self.batch_size, self.epoch - done)

    def released(self, step: int) -> bool:
        """Whether the scores of this step have arrived."""
        return step < self.applied or step in self._waiting

    def ready(self, step: int) -> bool:
        """Whether the draw of this step has been made."""
        return step <= self.applied + self.lag and step < self._steps

    def draw(self, step: int) -> Draw:
        """Return the draw of this step: the same one every time, until the step's update releases it.

        Raises:
            InputError: the draw is not ready yet, already released, or beyond the last step.
        """
        if step in self._draws:
            return self._draws[step]
        if step >= self._steps:
            raise InputError(f"draw {step} is beyond the last of {self._steps} steps")
        if self.ready(step):
            raise InputError(f"draw {step} was released: the scores of its step have already arrived")
        raise InputError(f"draw {step} is not ready: it needs the scores of step {step - 1 - self.lag}")

    def update(self, step: int, indices: ArrayLike, scores: ArrayLike, observed: ArrayLike | None = None) -> None:
        """Hand in the scores of one step: once per step, in any order.

        Args:
            indices, scores: [n], as of ``ImportanceTable.update``; n = 0 releases the step and changes no score.
            observed: [n, ≥ 2], what the step saw of the examples, for a prior that follows the training; the indices
                are then those of the draw.
        Raises:
            InputError: the table rejects the scores, the observations are not of the draw, or the step's draw is not
                made yet or already scored; nothing is changed.
        """
        if step not in self._draws:
            self.draw(step)  # raises InputError with the reason
        if len(np.asarray(indices)):
            index, score = self.table.checked(indices, scores)
        else:
            index, score = np.zeros(0, np.int64), np.zeros(0)
        seen: tuple[Any, ...] = ()
        if observed is not None:
            draw, values = self._draws[step], np.array(observed, np.float64)
            if not np.array_equal(index, draw.indices) or values.ndim != 2 or len(values) != len(index):
                raise InputError(
                    f"observations must be [{len(draw.indices)}, ≥ 2], of the examples of draw {step} in its order, "
                    f"got {list(values.shape)}"
                )
            seen = (draw.probabilities.copy(), values)
        del self._draws[step]
        self._waiting[step] = (index.copy(), score.copy(), *seen)
        while self.applied in self._waiting:
            index, score, *seen_then = self._waiting.pop(self.applied)
            if seen_then:
                self.table.observe(index, *seen_then)
            if len(index):
                self.table.update(index, score)
            self.applied += 1
            self._make(self.applied + self.lag)

    def state_dict(self) -> dict[str, Any]:
        """Return the table's state, the draws not yet released and the updates that wait: torch tensors, numbers."""
        return as_tensors(self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """Return ``state_dict`` with numpy arrays, as copies, for a process that has no torch."""

        def copies(*arrays: Any) -> list[Any]:
            return [np.array(array) for array in arrays]

        return {
            "table": self.table.snapshot(),
            "batch_size": self.batch_size,
            "lag": self.lag,
            "epoch": self.epoch,
            "applied": self.applied,
            "draws": {
                step: [*copies(draw.indices, draw.probabilities, draw.weights), draw.step, draw.version]
                for step, draw in self._draws.items()
            },
            "waiting": {step: copies(*pair) for step, pair in self._waiting.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` or ``snapshot`` returned: draws that were not released are the same again.

        Raises:
            InputError: the state has another batch size, lag or epoch, or is another table's.
        """
        for name in ("batch_size", "lag", "epoch"):
            if state.get(name) != getattr(self, name):
                raise InputError(f"the saved schedule has {name} {state.get(name)}, this one {getattr(self, name)}")
        self.table.load_state_dict(state["table"])
        self.applied = int(state["applied"])
        self._draws = {int(step): _draw(*saved) for step, saved in state["draws"].items()}
        self._waiting = {int(step): tuple(map(as_numpy, saved)) for step, saved in state["waiting"].items()}


def _draw(indices: Any, probabilities: Any, weights: Any, step: int, version: int) -> Draw:
    return Draw(as_numpy(indices), as_numpy(probabilities), as_numpy(weights), step, version)
