"""Heuristics: what one forward pass says about each location, as a score for its class and one for its box.

Each function takes an Outcome and returns ``(class_scores, box_scores)``, both [B, L] float32, finite and ≥ 0 (thesis
§4.2.3–4.2.6, chapters 3 and 7). The class score is defined where the class is known (``outcome.care``), the box score
where an object owns the location; the reduction decides which locations count.

With a = probability of the true class: class_loss = −log a, so that a = exp(−class_loss) and 1 − a =
−expm1(−class_loss), without a second softmax and without cancellation near a = 1.

To add one, write a function here and give it a row of ``isod.sampling.catalogue.HEURISTICS``. A function of another
package needs no row: a sampler names it, ``heuristic="my_package.scores:focal"``. If it reads the outcome's logits or
IoU, it says so by an attribute, ``focal.needs = {"logits", "iou"}``. A detector without these is then rejected at
start-up.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from isod.errors import InputError
from isod.outcome import Outcome

Scores = tuple[Tensor, Tensor]

# The logarithms below are of max(·, LOG_FLOOR): every score is at most −log(1e-6) = 13.8.
LOG_FLOOR = 1e-6
# Distance to the decision boundary counts this much on its wrong side (asymmetric uncertainty).
WRONG_SIDE = 0.5
# A background location is a confident false positive from this foreground probability on.
FALSE_POSITIVE = 0.5


def loss(outcome: Outcome) -> Scores:
    """Return −log a and the box loss: what the detector is trained on (LIS, §4.2.3; Johansson & Lindberg 2022)."""
    return outcome.class_loss.float(), outcome.box_loss.float()


def error(outcome: Outcome) -> Scores:
    """Return −log a and −log IoU (eq. 4.4; Chang et al. 2017 use the error itself, over its history)."""
    return outcome.class_loss.float(), _neg_log(_iou(outcome))


def uncertainty(outcome: Outcome) -> Scores:
    """Return −log(1 − 4a(1 − a)) = −2·log|1 − 2a|, and the same with IoU in place of a (UIS, §4.2.5.1).

    It is highest at the decision boundary a = ½, where it is clamped to 13.8 (|1 − 2a| ≥ 1e-3), and 0 at a = 0 and 1.
    This is the form that the thesis's text and figures describe; eq. 4.5 as printed is ``uncertainty_as_printed``.
    """
    wrong, right = _distances(outcome)
    return _uncertainty(wrong), _uncertainty(right)


def uncertainty_as_printed(outcome: Outcome) -> Scores:
    """Return −log(4a(1 − a)) and the same with IoU: eq. 4.5 to the letter, an ablation.

    It is 0 at the boundary a = ½ and grows towards both ends: it prefers what the model is sure of.
    """
    class_pair, box_pair = _distances(outcome)
    return _neg_log(4 * class_pair[0] * class_pair[1]), _neg_log(4 * box_pair[0] * box_pair[1])


def asymmetric_uncertainty(outcome: Outcome) -> Scores:
    """Return uncertainty that leans towards errors: −2·log(k(1 − 2a)) for a < ½ with k = ½, −2·log(2a − 1) for a ≥ ½.

    Chapter 7 proposes to weight f(x) = 1 − 4x(1 − x), before the logarithm, towards higher errors while still
    favouring closeness to the boundary. Here f keeps its form on the right side and is k²·(1 − 2x)² on the wrong one:
    continuous at ½ (the peak, clamped to 13.8), and −log k² = 1.39 instead of 0 at a = 0. So an object that the model
    misses with confidence is still drawn (spec §11), though less than one at the boundary.
    """
    wrong, right = _distances(outcome)
    return _uncertainty(wrong, WRONG_SIDE), _uncertainty(right, WRONG_SIDE)


def bounded_error(outcome: Outcome) -> Scores:
    """Return 1 − a and 1 − IoU, in [0, 1] (Chang et al. 2017, the error without its logarithm)."""
    return _complement(outcome), 1 - _iou(outcome).clamp(0, 1)


def error_vector_norm(outcome: Outcome) -> Scores:
    """Return ‖p − onehot(y)‖₂ and 1 − IoU (EL2N: Paul et al. 2021, definition 2.3); in [0, √2] for a softmax."""
    return outcome.error_norm(), 1 - _iou(outcome).clamp(0, 1)


def gradient_norm(outcome: Outcome) -> Scores:
    """Return the norm of the loss's gradient with respect to the class logits (Katharopoulos & Fleuret 2018, eq. 20).

    For softmax cross-entropy that is ‖softmax(z) − onehot(y)‖₂. The reduction "norm" combines the locations' scores
    into the norm over the image, the paper's upper bound of the example's gradient norm. The outcome does not hold the
    box offsets' gradient, so the box part is 0.
    """
    return outcome.error_norm(), torch.zeros_like(outcome.box_loss, dtype=torch.float32)


def margin(outcome: Outcome) -> Scores:
    """Return log(1 + exp(−m)) of the final-layer margin m = z_y − max_{c≠y} z_c (Pleiss et al. 2020; chapter 3).

    Softplus keeps the order (the more negative the margin, the higher the score) and makes it non-negative. The box
    part is the same of m = 2·IoU − 1.
    """
    return F.softplus(-outcome.margin()), F.softplus(1 - 2 * _iou(outcome).clamp(0, 1))


def background_aware(outcome: Outcome) -> Scores:
    """Return uncertainty plus the loss of confident false positives, without NMS (§6.3.2, chapter 7; the form is ours).

    Background locations whose likeliest foreground class has a probability above ½ add their −log a. They are scaled
    by (background locations) / (such locations) of their image, so that the background's *mean* gains the mean −log a
    of the false positives: thousands of easy locations do not hide a few of them.
    """
    class_scores, box_scores = uncertainty(outcome)
    background = (outcome.object_index < 0) & outcome.care
    false_positive = background & (outcome.foreground() > FALSE_POSITIVE)
    count = background.sum(1, keepdim=True) / false_positive.sum(1, keepdim=True).clamp(min=1)  # [B, 1]
    return class_scores + false_positive * count * outcome.class_loss.float(), box_scores


def _iou(outcome: Outcome) -> Tensor:
    if outcome.iou is None:
        raise InputError("this detector's outcome has no iou, which the sampler's heuristic needs")
    return outcome.iou.float()


def _complement(outcome: Outcome) -> Tensor:
    """1 − a, accurate near a = 1."""
    return -torch.expm1(-outcome.class_loss.float())


def _distances(outcome: Outcome) -> tuple[Scores, Scores]:
    """(a, 1 − a) and (IoU, 1 − IoU)."""
    iou = _iou(outcome).clamp(0, 1)
    return (torch.exp(-outcome.class_loss.float()), _complement(outcome)), (iou, 1 - iou)


def _neg_log(x: Tensor) -> Tensor:
    return -x.clamp(LOG_FLOOR, 1).log()


def _uncertainty(pair: Scores, wrong_side: float = 1.0) -> Tensor:
    """−2·log|1 − 2a|, with |1 − 2a| times ``wrong_side`` where a < ½; log1p keeps it accurate near 0."""
    a, complement = pair
    nearest = torch.minimum(a, complement).clamp(max=(1 - math.sqrt(LOG_FLOOR)) / 2)  # distance to the nearer end
    score = -2 * torch.log1p(-2 * nearest)
    if wrong_side == 1:
        return score
    return torch.where(a < complement, score - 2 * math.log(wrong_side), score).clamp(max=-math.log(LOG_FLOOR))
