"""Which updates a draw has seen, fixed by the lag and by nothing else."""

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
    def snapshot(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class DrawSchedule:
    """Draw t sees exactly the updates of steps ≤ t − 1 − lag, however late or disordered these arrive.

    Draws 0 … lag are made at once. Applying the update of step u makes draw u + 1 + lag; updates are applied by step
    number, an early one waits. So whoever prepares batches ahead, with however many workers, gets the same draws.

    Args:
        table: drawn from and updated through this schedule alone.
        batch_size: examples per draw.
        lag: how many draws may be under way beyond the one being trained on; ≥ 0.
        steps: draws in all, so that none is counted that nobody will train on; no end by default.
    """

    def __init__(self, table: Table, *, batch_size: int, lag: int, steps: int | None = None):
        if batch_size < 1:
            raise InputError(f"batch_size must be ≥ 1, got {batch_size}")
        if lag < 0:
            raise InputError(f"lag must be ≥ 0, got {lag}")
        self.table, self.batch_size, self.lag = table, batch_size, lag
        self._steps = float("inf") if steps is None else steps
        self.applied = 0  # updates of steps 0 … applied − 1 are in the table
        self._draws: dict[int, Draw] = {}  # made, and not yet released by their step's update
        self._waiting: dict[int, tuple[IntArray, FloatArray]] = {}  # updates that came before their turn
        for step in range(lag + 1):
            self._make(step)

    def _make(self, step: int) -> None:
        if step < self._steps:
            self._draws[step] = self.table.draw(self.batch_size)

    def ready(self, step: int) -> bool:
        """Whether the draw of this step has been made."""
        return step <= self.applied + self.lag and step < self._steps

    def draw(self, step: int) -> Draw:
        """The draw of this step, the same one every time until the step's update releases it.

        Raises:
            InputError: it is not ready yet, or already released.
        """
        if step in self._draws:
            return self._draws[step]
        if step >= self._steps:
            raise InputError(f"draw {step} is beyond the last of {self._steps} steps")
        if self.ready(step):
            raise InputError(f"draw {step} was released: the scores of its step have arrived")
        raise InputError(f"draw {step} is not ready: it needs the scores of step {step - 1 - self.lag}")

    def update(self, step: int, indices: ArrayLike, scores: ArrayLike) -> None:
        """Hand in the scores of one step; every step does so exactly once, in any order.

        Raises:
            InputError: the scores are refused by the table, or the step's draw is not made or already scored; nothing
                is changed.
        """
        if step not in self._draws:
            self.draw(step)  # raises, and says why
        index, score = self.table.checked(indices, scores)
        del self._draws[step]
        self._waiting[step] = (index.copy(), score.copy())
        while self.applied in self._waiting:
            self.table.update(*self._waiting.pop(self.applied))
            self.applied += 1
            self._make(self.applied + self.lag)

    def state_dict(self) -> dict[str, Any]:
        """The table's state, the draws under way and the updates that wait, as torch tensors and plain numbers."""
        return as_tensors(self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """``state_dict`` with numpy arrays, for a process that has no torch; copies."""

        def copies(*arrays: Any) -> list[Any]:
            return [np.array(array) for array in arrays]

        return {
            "table": self.table.snapshot(),
            "batch_size": self.batch_size,
            "lag": self.lag,
            "applied": self.applied,
            "draws": {
                step: [*copies(draw.indices, draw.probabilities, draw.weights), draw.step, draw.version]
                for step, draw in self._draws.items()
            },
            "waiting": {step: copies(*pair) for step, pair in self._waiting.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` or ``snapshot`` was taken: draws under way are given out again as they were.

        Raises:
            InputError: the state has another batch size or lag, or another table's state.
        """
        for name in ("batch_size", "lag"):
            if state[name] != getattr(self, name):
                raise InputError(f"the saved schedule has {name} {state[name]}, this one {getattr(self, name)}")
        self.table.load_state_dict(state["table"])
        self.applied = int(state["applied"])
        self._draws = {int(step): _draw(*saved) for step, saved in state["draws"].items()}
        self._waiting = {int(step): (as_numpy(pair[0]), as_numpy(pair[1])) for step, pair in state["waiting"].items()}


def _draw(indices: Any, probabilities: Any, weights: Any, step: int, version: int) -> Draw:
    return Draw(as_numpy(indices), as_numpy(probabilities), as_numpy(weights), step, version)
