"""The progress bar of whatever goes through frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.console
import rich.progress


@contextmanager
def progress_bar(
    frames: int | None, *, shown: bool, what: str = "preparing", unit: str = "frames"
) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error; yields a function that takes the number of frames just finished.

    Args:
        frames: how many there are; None if that is not known.
        what: the bar's first word.
        unit: what is counted, where that is not frames.
    """
    columns = (
        rich.progress.TextColumn(what),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn(unit),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task("", total=frames)
        yield lambda count: bar.advance(task, count)
