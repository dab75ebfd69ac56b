"""Checkpoints of one run: written whole or not at all, the last good one always there, no pickled code."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from isod.config.record import changes
from isod.errors import InputError, one_line
from isod.files import atomic_write

log = logging.getLogger(__name__)

FORMAT = 1
KEPT = 2  # newest ones; should the last be damaged, the one before it serves


def save_whole(state: dict[str, Any], path: Path) -> None:
    """What torch.load reads, at ``path`` whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_write(path) as part, part.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # closing a file that has ended too soon, it hides a full disk or a Ctrl-C behind an error of its own
            raise error.__context__ or error from None
        file.flush()
        os.fsync(file.fileno())


class Checkpoints:
    """The checkpoints of one run in a folder of its own, ``checkpoint-<iteration>.pt``.

    Args:
        folder: is made when the first one is written.
        settings: everything that the run depends on, flat; a checkpoint of other settings is refused.
        share: of the training time that checkpoints may take. One that comes too soon after the last is left out.
        store: called when one is written: stores the folder elsewhere. Raises OSError if it cannot.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str | int | float | bool],
        *,
        share: float = 0.01,
        store: Callable[[], None] | None = None,
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._share = share
        self._store = store or (lambda: None)
        self._saved_at = 0.0  # training seconds at the last one
        self.cost = 0.0  # seconds that all of them took
        self._last_cost = 0.0

    def due(self, seconds: float) -> bool:
        """Whether another one is worth its time after so many seconds of training."""
        return (seconds - self._saved_at) * self._share >= self._last_cost

    def save(self, iteration: int, seconds: float, state: dict[str, Any]) -> None:
        """Write one. A full disk is logged, and the earlier ones stay.

        Args:
            iteration: steps done; names the file.
            seconds: of training so far.
            state: tensors, plain numbers and nests of them.
        """
        began = time.perf_counter()
        path = self._folder / f"checkpoint-{iteration:09d}.pt"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_whole({"format": FORMAT, "settings": self._settings, "iteration": iteration, **state}, path)
            for old in self._paths()[KEPT:]:
                old.unlink()
            self._store()
        except OSError as error:
            log.warning(
                "checkpoint at iteration %s not written (%s); the run continues",
                iteration,
                error.strerror or one_line(error),
            )
        self._last_cost = time.perf_counter() - began
        self.cost += self._last_cost
        self._saved_at = seconds

    def load(self) -> dict[str, Any] | None:
        """The newest one that is whole, on the CPU; None if there is none. Damaged ones are renamed, so that they take
        no place among those that are kept.

        Raises:
            InputError: it cannot be read, memory is short, or it is of other settings, with the names of those that
                differ.
        """
        for path in self._paths():
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
                found, settings = state["format"], state["settings"]
            except OSError as error:
                raise InputError(
                    f"{path} cannot be read ({error.strerror or error}): see to that, and resume"
                ) from None
            except Exception as error:  # torch raises whatever a damaged file leads it to
                if isinstance(error, MemoryError) or "allocate memory" in str(error):
                    raise InputError(f"there is not enough memory to read {path}: free some, and resume") from None
                log.warning("%s is damaged and ignored (%s)", path, type(error).__name__)
                path.rename(path.with_suffix(".damaged"))
                continue
            if found != FORMAT:
                raise InputError(f"{path} has format {found}, and this isod reads format {FORMAT}: start the run anew")
            if text := changes(settings, self._settings):
                raise InputError(f"{path} is of a run with other settings ({text}): use the same, or another folder")
            self._saved_at = float(state["record"]["seconds"])
            return state
        return None

    def clear(self) -> None:
        """Delete them, and what is left of any that were not finished or were damaged: the run has finished."""
        for path in self._folder.glob("checkpoint-*"):
            path.unlink()

    def _paths(self) -> list[Path]:
        """Newest first."""
        return sorted(self._folder.glob("checkpoint-*.pt"), reverse=True)
