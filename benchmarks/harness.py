"""What the benchmarks share: contenders that take turns, one table of medians, and what machine it was."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch

from isod.training.device import cpu_model

PACKAGES = ("numpy", "torch", "torchvision", "ray", "mlflow", "pylance", "numba")

ROOT = Path(__file__).parent.parent  # of the repository

Figures = list[float] | str  # what the turns of a contender gave, or why it was not run


class NotRun(Exception):
    """A contender cannot take part here; the message says why."""


def installed(package: str) -> str:
    """The package's version. Raises NotRun where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        raise NotRun(f"{package} is not installed") from None


def environment() -> dict[str, str]:
    """This process's, for one that shall import this repository whatever is installed, and keep what it compiles: else
    each of Ray's processes compiles all that it imports, from source."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": path}


def take_turns(contenders: Mapping[str, Callable[[], float]], turns: int, *, warm_up: int = 0) -> dict[str, Figures]:
    """Each contender's figure of each turn. They go round, so that a change in the machine's speed reaches all.

    A contender that raises NotRun is left out of the later turns, with its reason in place of figures.

    Args:
        warm_up: turns before those that count.
    """
    found: dict[str, Figures] = {name: [] for name in contenders}
    for turn in range(-warm_up, turns):
        for name, measure in contenders.items():
            figures = found[name]
            if isinstance(figures, list):
                try:
                    figure = measure()
                except NotRun as reason:
                    found[name] = str(reason)
                else:
                    figures += [figure] if turn >= 0 else []
    return found


def medians(figures: Mapping[str, Figures]) -> dict[str, float]:
    """Of the contenders that were run."""
    return {name: median(found) for name, found in figures.items() if isinstance(found, list)}


def seconds(work: Callable[[], object], device: torch.device | None = None) -> float:
    """Of one call; on a GPU, of what it makes the device do, by the device's own clock."""
    if device is not None and device.type == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def comparison(
    figures: Mapping[str, Figures], unit: str, *, less_is_better: bool, targets: Mapping[str, float] | None = None
) -> str:
    """A Markdown table of medians, ours first, every other contender beside it.

    Args:
        figures: of each contender; the first one is ours.
        unit: of the figures.
        targets: contender → how many times better than it ours has to be.
    Returns:
        One line a contender; "ours is better" is a ratio: 2 is twice as fast, or half the time.
    """
    (name, own), *others = figures.items()
    lines = [f"| | {unit} | lowest … highest | ours is better | target | met? |", "|---|---|---|---|---|---|"]
    if isinstance(own, str):
        return "\n".join([*lines, f"| {name} | not run: {own} | | | | |"])
    lines.append(f"| {name} | {number(median(own))} | {spread(own)} | – | | |")
    for peer, found in others:
        target = (targets or {}).get(peer)
        wanted = "" if target is None else f"≥ {target:g} ×"
        if isinstance(found, str):
            lines.append(f"| {peer} | not run: {found} | | | {wanted} | |")
            continue
        ratio = median(found) / median(own) if less_is_better else median(own) / median(found)
        met = "" if target is None else yes(ratio >= target)
        lines.append(f"| {peer} | {number(median(found))} | {spread(found)} | {ratio:.2f} × | {wanted} | {met} |")
    return "\n".join(lines)


def limits(rows: Sequence[tuple[str, Figures, str, float | None]]) -> str:
    """A Markdown table of figures that have no peer: (name, figures, unit, most that they may be) each."""
    lines = ["| | median | lowest … highest | target | met? |", "|---|---|---|---|---|"]
    for name, figures, unit, most in rows:
        wanted = "" if most is None else f"≤ {most:g} {unit}"
        if isinstance(figures, str):
            lines.append(f"| {name} | not run: {figures} | | {wanted} | |")
            continue
        met = "" if most is None else yes(median(figures) <= most)
        lines.append(f"| {name} | {number(median(figures))} {unit} | {spread(figures)} | {wanted} | {met} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(figures: Sequence[float]) -> str:
    """The lowest and the highest; nothing of a single figure."""
    return f"{number(min(figures))} … {number(max(figures))}" if len(figures) > 1 else ""


def yes(met: bool) -> str:
    """How a table says whether a target is met."""
    return "yes" if met else "**no**"


def machine() -> str:
    """Processor, cores, memory, GPU, versions and commit, as Markdown lines."""
    from isod.orchestration.sweep import source_commit  # imports Ray, which most benchmarks do without

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"- {cpu_model()}, {os.cpu_count()} cores as the system counts them, {memory:.0f} GiB; {gpu}\n"
        f"- Python {platform.python_version()}, {versions}\n"
        f"- isod at commit {source_commit()}"
    )
