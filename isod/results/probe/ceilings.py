"""How much a draw could save at most, and whether that is worth a study. Ceilings, not forecasts.

**Unbiased draws** weigh the loss by 1/(N·p). The second moment of the gradient then falls at most to ESS/N of the
examples' gradient norms, (Σg)²/(N·Σg²), reached by drawing in proportion to them. So at most 1/(ESS/N) − 1 of the
iterations can be saved, in the sense of a speed-up; 30 % needs ESS/N ≤ 0.77.

**Label-only draws** are judged by a toy: AP_c = 1 − (1 + n_c/200)^(−β), n_c being the effective draws of class c: the
draws of images with it, times (Σp)²/(k·Σp²) over its k images, as a few that are drawn again and again count less. The
ceiling is the speed-up to the mean AP that a uniform draw has after ``DRAWS`` draws. β is not known, so it is computed
for several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isod.config.presets import PRESETS
from isod.sampling.catalogue import find_prior
from isod.sampling.priors import Labels
from isod.sampling.samplers import SAMPLERS

WORTH = 0.3  # least ceiling that is worth a study
ESS_BELOW = 1 / (1 + WORTH)  # 0.77: of N, what an unbiased draw that saves so much needs at most
LABEL_ONLY = ("empties", "RFS", "IRFS")  # samplers that draw by the labels alone
BETAS = (0.25, 0.5, 1.0)
HALF = 200.0  # draws after which the toy's error has fallen to 2^−β
# the study's target is the baseline's mAP at 60 % of its budget
DRAWS = round(0.6 * PRESETS["small"].training.iterations * PRESETS["small"].training.batch_size)
FARTHEST = 1e9  # draws; what the toy does not reach by then it never does

RULE = (
    f"A study is worth its cost if an unbiased draw could save {100 * WORTH:.0f} % (ESS/N of the gradient norms ≤ "
    f"{ESS_BELOW:.2f}), or if the lower end of a label-only ceiling is {100 * WORTH:.0f} % or more. Of the label-only "
    "samplers the one with the highest ceiling is named, the control 'empties' if its own is as much, and CAP, which "
    "adds scores to labels; of the scoring ones "
    f"those whose own ESS/N is {ESS_BELOW:.2f} or less, as above it they draw nearly uniformly."
)


def effective_share(scores: NDArray[np.float64]) -> float:
    """Return (Σs)²/(N·Σs²), the effective sample size over N, in (0, 1]; NaN where all scores are 0."""
    squares = float(np.square(scores).sum())
    return float(scores.sum() ** 2 / (len(scores) * squares)) if squares > 0 else math.nan


def unbiased_ceiling(ess: float) -> float:
    """Return 1/ESS − 1, the most that an unbiased draw can save, as a speed-up."""
    return 1 / ess - 1


def effective_draws(labels: Labels, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [C], effective draws of each class for one draw; 0 for a class that no image has.

    Args:
        probabilities: [N], adding up to 1.
    """
    images, classes = labels.occurrences
    p, width = probabilities[images], labels.num_classes + 1
    total, squares, count = (np.bincount(classes, weights, width)[1:] for weights in (p, np.square(p), np.ones_like(p)))
    spread = np.divide(np.square(total), count * squares, out=np.zeros_like(total), where=squares > 0)
    return total * spread


def toy_map(draws: NDArray[np.float64], beta: float) -> float:
    """Return the toy's mean AP after so many effective draws of each class [C]."""
    return float((1 - (1 + draws / HALF) ** -beta).mean())


def toy_speedup(
    uniform: NDArray[np.float64], drawn: NDArray[np.float64], *, draws: float = DRAWS, beta: float
) -> float:
    """Return how much sooner the toy's mean AP is that of a uniform draw after ``draws``; −1 if it never is.

    Args:
        uniform, drawn: [C], effective draws of each class for one draw, of the uniform draw and of the other.
    """
    target = toy_map(draws * uniform, beta)
    low, high = 0.0, FARTHEST
    if toy_map(high * drawn, beta) < target:
        return -1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if toy_map(middle * drawn, beta) < target else (low, middle)
    return draws / high - 1


def label_ceilings(labels: Labels) -> dict[str, tuple[float, float]]:
    """Return the lowest and highest ceiling over ``BETAS`` of each label-only sampler; classes without images count
    for none."""
    even = labels.eligible / labels.eligible.sum()
    uniform = effective_draws(labels, even)
    present = uniform > 0
    found = {}
    for name in LABEL_ONLY:
        prior = find_prior(SAMPLERS[name].prior or "")(labels, SAMPLERS[name]) * labels.eligible
        drawn = effective_draws(labels, prior / prior.sum())
        values = [toy_speedup(uniform[present], drawn[present], beta=beta) for beta in BETAS]
        found[name] = (min(values), max(values))
    return found


def verdict(
    label_only: Mapping[str, tuple[float, float]], gradient_ess: float | None, ess: Mapping[str, float]
) -> tuple[list[str], str]:
    """Return the samplers of a study, none if it is not worth its cost, and the sentence that says so.

    Args:
        label_only: lowest and highest ceiling by sampler.
        gradient_ess: ESS/N of the gradient norms; None where nothing was trained.
        ess: ESS/N of the scores of the samplers that may be named; empty where nothing was trained.
    """
    best = max(label_only, key=lambda name: label_only[name][0])
    low, high = label_only[best]
    unbiased = gradient_ess is not None and gradient_ess <= ESS_BELOW
    chosen = []
    if low >= WORTH:  # the toy's order is no forecast, so the simplest sampler runs beside the best
        chosen = [name for name in label_only if name == best or (name == "empties" and label_only[name][0] >= WORTH)]
        chosen.append("CAP")
    if unbiased:
        chosen.append("LIS-unbiased")
    if chosen:
        chosen += [name for name, value in ess.items() if value <= ESS_BELOW]
    words = [f"the label-only ceiling is {percent(low)} … {percent(high)} ({best})"]
    if gradient_ess is not None and math.isfinite(gradient_ess):
        words.append(
            f"ESS/N of the gradient norms is {gradient_ess:.2f}, at most {percent(unbiased_ceiling(gradient_ess))} for "
            "an unbiased draw"
        )
    reasons = ", and ".join(words)
    trained = "" if gradient_ess is not None else " by the labels alone"
    if not chosen:
        return [], f"Not worth a study{trained}: {reasons}."
    return chosen, f"Worth a study{trained}, with {listed(['baseline', 'uniform', *chosen])}: {reasons}."


def percent(value: float) -> str:
    """Return a speed-up as "+30 %"; "never" for −1."""
    return "never" if value <= -1 else f"{100 * value:+.0f} %".replace("-", "−")


def listed(names: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
