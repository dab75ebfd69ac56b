"""What people see while isod works: bars in a terminal, a table in a notebook, plain lines elsewhere, nothing if quiet.

This module alone decides which of these. Commands print their results; whatever else is to be seen goes through
``say``, ``progress_bar`` or ``display``. Bars are drawn on standard error, lines are printed to standard output.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

EVERY = 20.0  # seconds between two plain lines about the same work
NOTEBOOK_EVERY = 1.0  # seconds between two updates of a notebook's table
PER_SECOND = 4  # how often a terminal's bars are drawn
GAP = 2  # columns between the parts of a line
BAR_LEAST, BAR_MOST = 8, 40  # columns of a bar

_quiet = False
_shown: _Display | None = None


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Within it, if wanted, nothing is shown but results, warnings and errors."""
    global _quiet
    before, _quiet = _quiet, _quiet or wanted
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    """Whether nothing is shown but results, warnings and errors."""
    return _quiet


def say(text: str) -> None:
    """Print a line that stays, above any bars; no-op if quiet."""
    if not _quiet:
        (_shown or _Display()).write_line(text)


def clock(seconds: float) -> str:
    """Return ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def seconds_left(seconds: float, done: float, left: float) -> float | None:
    """Return how long the share ``left`` of all work takes, at the pace of the share ``done`` in ``seconds``; None
    while less than 2 % is done."""
    return None if done < 0.02 else seconds * left / done


@dataclass(frozen=True)
class Line:
    """One line of a display."""

    name: str
    share: float | None  # of the work that is done, 0 … 1; None if that is not known: there is no bar
    counts: str  # "300/600"
    notes: Sequence[str] = ()  # the most important first; those that do not fit are left out


def times(seconds: float, left: float | None) -> list[str]:
    """Return the notes of a Line on time: what is left, None if that is not known, and what has passed."""
    return [*([] if left is None else [f"about {clock(left)} left"]), f"{clock(seconds)} so far"]


@contextmanager
def display(
    lines: Callable[[], list[Line]],
    *,
    plain: Callable[[], None] | None,
    table: Callable[[], list[Line]] | None = None,
    every: float = EVERY,
    at_once: bool = False,
) -> Iterator[_Display]:
    """Show lines until the end, what is shown last stays; yields what to call ``update`` of when they have changed.

    Nothing is shown inside another display, or if quiet.

    Args:
        lines: for a terminal, where they are also read from another thread.
        plain: prints a line that says the same, where there is neither a terminal nor a notebook; None prints none.
        table: lines for a notebook, if these are others.
        every: seconds between two plain lines.
        at_once: whether the first plain line comes with the first update, and not after so many seconds.
    """
    global _shown
    if _quiet or _shown is not None:
        yield _Display()
        return
    shown: _Display
    if in_notebook():
        shown = _Table(table or lines)
    elif draws_bars():
        shown = _Bars(lines)
    else:
        shown = _Display() if plain is None else _PlainLines(plain, every, at_once)
    _shown = shown
    try:
        shown.begin()  # in here: a Ctrl-C at any moment ends what has begun
        yield shown
    finally:
        _shown = None
        shown.close()


class Progress:
    """How far work of a known or unknown size has come; call it with the number just finished."""

    def __init__(self, count: int | None, what: str, unit: str) -> None:
        self.done = 0
        self.note = ""  # more to say, such as the quality reached so far
        self.ended = False
        self.shown: _Display = _Display()
        self._count = count
        self._what = what
        self._unit = unit
        self._began = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first ones were done, and how many: no pace of this job

    def __call__(self, count: int) -> None:
        self.done += count
        self._first = self._first or (time.monotonic(), self.done)
        self.shown.update()

    def lines(self) -> list[Line]:
        """Return the one line; none at the end of work that did not begin."""
        if self.ended and not self.done:
            return []
        share = None if self._count is None else min(1.0, self.done / max(self._count, 1))
        return [Line(self._what, share, self._counts, [*filter(None, [self.note]), *self._times()])]

    def write_line(self) -> None:
        """Print to standard error how far it has come."""
        notes = [*filter(None, [self.note]), *self._times()]
        print(f"{self._what} {self._counts}, {', '.join(notes)}", file=sys.stderr, flush=True)

    @property
    def _counts(self) -> str:
        return f"{self.done} {self._unit}" if self._count is None else f"{self.done}/{self._count} {self._unit}"

    def _times(self) -> list[str]:
        now = time.monotonic()
        if self.ended:
            return [clock(now - self._began)]
        left = None
        if self._count and self._first is not None:
            when, before = self._first
            left = seconds_left(now - when, (self.done - before) / self._count, 1 - self.done / self._count)
        return times(now - self._began, left)


@contextmanager
def progress_bar(
    count: int | None, *, what: str, unit: str = "frames", shown: bool = True, plain: bool = True
) -> Iterator[Progress]:
    """Show how far work has come; yields what to call with the number just finished.

    Args:
        count: how many there are; None if that is not known.
        what: the first word, such as "preparing".
        plain: whether to print lines where there is neither a terminal nor a notebook: now and then, and at the end.
    """
    progress = Progress(count, what, unit)
    if not shown:
        yield progress
        return
    with display(progress.lines, plain=progress.write_line if plain else None) as progress.shown:
        try:
            yield progress
        finally:
            progress.ended = True
        if progress.done:
            progress.shown.finish()


def in_notebook() -> bool:
    """Whether this is the kernel of a Jupyter notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def draws_bars() -> bool:
    """Whether bars can be drawn on standard error.

    It must be a terminal that can move its cursor. Standard output must not be a pipe: whoever reads it, such as tee or
    less, may write to the same terminal.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    try:
        return not stat.S_ISFIFO(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError, io.UnsupportedOperation):
        return True  # it is no file: a notebook's or a test's


class _Display:
    """Shows nothing but the lines that stay."""

    rows = False  # whether it shows a row for whatever has ended

    def begin(self) -> None:
        """Called at the beginning."""

    def write_line(self, text: str) -> None:
        print(text, flush=True)

    def update(self) -> None:
        """Called when something has changed."""

    def finish(self) -> None:
        """Called when all is done."""

    def close(self) -> None:
        """Called at the end, whatever it is."""


class _PlainLines(_Display):
    def __init__(self, plain: Callable[[], None], every: float, at_once: bool) -> None:
        self._plain = plain
        self._every = every
        self._due = time.monotonic() + (0 if at_once else every)

    def update(self) -> None:
        if (now := time.monotonic()) >= self._due:
            self._due = now + self._every
            self._plain()

    def finish(self) -> None:
        self._plain()


class _Bars(_Display):
    def __init__(self, lines: Callable[[], list[Line]]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, force_terminal=True, force_jupyter=False)
        # What others print meanwhile, a library's warning for example, goes above the bars. A file gets its own.
        self._live = Live(
            get_renderable=lambda: BarLines(lines()),
            console=self._console,
            refresh_per_second=PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),
        )

    def begin(self) -> None:
        self._live.start(refresh=True)
        self._console.show_cursor(True)  # a process that is killed could not show it again

    def write_line(self, text: str) -> None:
        from rich.text import Text

        if sys.stdout.isatty():
            self._console.print(Text(text), soft_wrap=True)
        else:
            super().write_line(text)

    def close(self) -> None:
        self._live.stop()


class BarLines:
    """Lines with their bars, for rich; no line is wider than the terminal, and all of them fit into its height."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        most = max(1, options.size.height - 2)
        lines = self._lines
        if len(lines) > most:
            more = [Line(f"and {len(lines) - most + 1} more", None, "")] if most > 1 else []
            lines = [*lines[: most - len(more)], *more]
        if not lines:
            return
        name, bar, counts, note = columns(lines, options.max_width - 1)  # some terminals wrap a line that is full
        grid = Table.grid(padding=(0, GAP, 0, 0))
        widths = [width for width in (name, bar, counts, note) if width]
        for width in widths:
            grid.add_column(width=width, no_wrap=True, overflow="crop")
        for line in lines:
            done: Text | ProgressBar = Text("")
            if line.share is not None:
                done = ProgressBar(1, line.share, bar, complete_style="cyan", finished_style="green")
            cells = (Text(line.name), done, Text(line.counts), Text(_fitting(line.notes, note)))
            grid.add_row(*(cell for cell, width in zip(cells, (name, bar, counts, note), strict=True) if width))
        yield grid


def columns(lines: Sequence[Line], room: int) -> tuple[int, int, int, int]:
    """Return how many columns of ``room`` the names, the bars, the counts and the notes get; 0 leaves them out.

    Names and counts come first, then the first note of each line, the bars, and the other notes.
    """
    from rich.cells import cell_len

    counts = min(max(cell_len(line.counts) for line in lines), max(0, room - GAP - 1))
    name = min(max(cell_len(line.name) for line in lines), room - counts - GAP if counts else room)
    left = room - name - (counts + GAP if counts else 0) - GAP  # what is left for a bar or notes
    beside = left - BAR_LEAST - GAP  # notes beside the shortest bar
    with_bar = any(line.share is not None for line in lines) and all(
        cell_len(_fitting(line.notes[:1])) <= max(0, beside) for line in lines
    )
    most = beside if with_bar else left
    note = max(0, *(cell_len(_fitting(line.notes, most)) for line in lines))
    bar = min(BAR_MOST, left - (note + GAP if note else 0)) if with_bar else 0
    return name, (bar if bar >= BAR_LEAST else 0), counts, note


def _fitting(notes: Sequence[str], width: int | None = None) -> str:
    """Return as many of the notes, from the first on, as fit into so many columns; None takes all."""
    from rich.cells import cell_len

    text = ""
    for note in notes:
        longer = f"{text}, {note}" if text else note
        if width is not None and cell_len(longer) > width:
            break
        text = longer
    return text


class _Table(_Display):
    rows = True

    def __init__(self, lines: Callable[[], list[Line]]) -> None:
        self._lines = lines
        self._due = 0.0
        self._handle: Any = None  # what IPython updates it by

    def begin(self) -> None:
        from IPython.display import display as show

        self._handle = show(LineTable(self._lines()), display_id=True)

    def update(self) -> None:
        if (now := time.monotonic()) >= self._due:
            self._due = now + NOTEBOOK_EVERY
            self._handle.update(LineTable(self._lines()))

    def close(self) -> None:
        if self._handle is not None:
            self._handle.update(LineTable(self._lines()))


class LineTable:
    """Lines with their bars, as a notebook shows them."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def __repr__(self) -> str:
        return "\n".join(f"{line.name} {line.counts} {', '.join(line.notes)}".rstrip() for line in self._lines)

    def _repr_html_(self) -> str:
        rows = []
        for line in self._lines:
            bar = "" if line.share is None else f'<progress max="1" value="{line.share:.4f}"></progress>'
            cells = (escape(line.name), bar, escape(line.counts), escape(", ".join(line.notes)))
            rows.append("".join(f'<td style="text-align:left">{cell}</td>' for cell in cells))
        return f"<table><tr>{'</tr><tr>'.join(rows)}</tr></table>"
