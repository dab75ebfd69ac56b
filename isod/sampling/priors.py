"""Priors: what the labels say about how often an example should be drawn, before any score.

A prior is a function of the labels and the sampler's settings that returns [N] float64 ≥ 0; its scale does not matter.
The table draws in proportion to prior · score. With the strategy "prior" it draws in proportion to the prior alone.

A prior that follows the training is a class with what ``ClassAdaptive`` has: the trainer sends what it sees of the
drawn objects, and every ``window`` updates the table asks for a new prior.

To add one, write a function or class here and give it a row of ``isod.sampling.catalogue.PRIORS``. One of another
package needs no row: a sampler names it, ``prior="my_package.priors:rare_weather"``.

Importing this module imports numpy alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isod.errors import InputError
from isod.sampling.examples import FloatArray, IntArray, as_numpy
from isod.sampling.samplers import SamplerConfig


@dataclass(frozen=True, eq=False)
class Labels:
    """The objects of N examples, C classes. Picklable."""

    counts: IntArray  # [N], objects of each example, those of unknown class included
    classes: IntArray  # [K], one example after the other: 1…C, 0 where the class is unknown (don't-care)
    eligible: NDArray[np.bool_]  # [N], the examples that shares are counted over
    segments: IntArray  # [N], number of the sequence that each example is part of; empty where nobody knows
    sizes: NDArray[np.uint8]  # [K], 0 small, 1 medium, 2 large; empty where nobody knows
    num_classes: int  # C

    @classmethod
    def from_lists(
        cls,
        classes: Sequence[ArrayLike],
        num_classes: int,
        *,
        eligible: ArrayLike | None = None,
        segments: Sequence[str] | None = None,
        sizes: Sequence[ArrayLike] | None = None,
    ) -> Labels:
        """Return the labels of examples, given the classes of each one's objects.

        Args:
            classes: of each example, the classes of its objects, 1…C, or 0 where the class is unknown.
            num_classes: C.
            eligible: indices of the examples that may be drawn; all by default.
            segments: of each example, the name of the sequence that it is part of.
            sizes: of each example, the sizes of its objects, 0 small, 1 medium, 2 large.
        Raises:
            InputError: there is no example; a class, size or eligible index is outside of its range; or there is not
                one segment per example and one size per object.
        """
        if not len(classes):
            raise InputError("labels need at least one example, got none")
        arrays = [np.asarray(item, np.int64).reshape(-1) for item in classes]
        flat = np.concatenate(arrays)
        if len(flat) and not 0 <= flat.min() <= flat.max() <= num_classes:
            raise InputError(f"classes must be in 0 … {num_classes}, got {flat.min()} … {flat.max()}")
        if segments is not None and len(segments) != len(arrays):
            raise InputError(f"labels need one segment per example, {len(arrays)}, got {len(segments)}")
        mask = np.ones(len(arrays), bool)
        if eligible is not None:
            indices = np.asarray(eligible, np.int64)
            if len(indices) and not 0 <= indices.min() <= indices.max() < len(arrays):
                raise InputError(f"eligible must be in 0 … {len(arrays) - 1}, got {indices.min()} … {indices.max()}")
            mask[:] = False
            mask[indices] = True
        numbers = np.zeros(0, np.int64) if segments is None else np.unique(segments, return_inverse=True)[1]
        counts = np.array([len(item) for item in arrays], np.int64)
        of_each = [np.asarray(item, np.uint8).reshape(-1) for item in (() if sizes is None else sizes)]
        if sizes is not None and [len(item) for item in of_each] != counts.tolist():
            raise InputError("labels need one size per object of each example")
        extents = np.concatenate([np.zeros(0, np.uint8), *of_each])
        if extents.max(initial=0) > 2:
            raise InputError(f"sizes must be in 0 … 2, got {extents.max()}")
        return cls(counts, flat, mask, numbers.astype(np.int64), extents, num_classes)

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def images(self) -> IntArray:
        """[K], the example that each object is in."""
        return np.repeat(np.arange(len(self)), self.counts)

    @cached_property
    def firsts(self) -> IntArray:
        """[N], place of each example's first object."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def occurrences(self) -> tuple[IntArray, IntArray]:
        """Each class of each example once: examples [P] and classes [P], the unknown class left out."""
        known = self.classes > 0
        pairs = np.unique(self.images[known] * (self.num_classes + 1) + self.classes[known])
        return pairs // (self.num_classes + 1), pairs % (self.num_classes + 1)

    @cached_property
    def empty(self) -> NDArray[np.bool_]:
        """[N], examples without an object of known class."""
        return np.bincount(self.occurrences[0], minlength=len(self)) == 0

    @cached_property
    def image_shares(self) -> FloatArray:
        """[C + 1], share of the eligible examples with each class; 0 for class 0 and where none has it."""
        images, classes = self.occurrences
        return self._per_class(classes[self.eligible[images]]) / self.eligible.sum()

    @cached_property
    def object_shares(self) -> FloatArray:
        """[C + 1], share of the objects of known class, of eligible examples, that are of each class; likewise."""
        numbers = self._per_class(self.classes[(self.classes > 0) & self.eligible[self.images]])
        return numbers / max(numbers.sum(), 1)

    def _per_class(self, classes: IntArray) -> FloatArray:
        return np.bincount(classes, minlength=self.num_classes + 1).astype(np.float64)

    def largest(self, weights: FloatArray, empty: float) -> FloatArray:
        """Return [N], the largest weight [C + 1] of each example's classes, ``empty`` where it has none."""
        images, classes = self.occurrences
        found = np.full(len(self), -np.inf)
        np.maximum.at(found, images, weights[classes])
        return np.where(self.empty, empty, found)

    @cached_property
    def rarest(self) -> NDArray[np.int32]:
        """[N], the class of each example that fewest images have, 0 where it has none."""
        images, classes = self.occurrences
        found = np.zeros(len(self), np.int32)
        order = np.argsort(-self.image_shares[classes], kind="stable")  # the rarest is written last
        found[images[order]] = classes[order]
        return found

    @cached_property
    def digest(self) -> str:
        """A name of these labels, the same for equal ones alone."""
        parts = (self.counts, self.classes, self.eligible, self.segments, self.sizes, np.array([self.num_classes]))
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


def repeat_factor(labels: Labels, config: SamplerConfig) -> FloatArray:
    """Return repeat factors: the largest over an image's classes of max(1, (t/f)^e), at most R (Gupta et al. 2019).

    f is the share of images with the class. The paper's e is ½ (``prior_exponent``) and its t 0.001
    (``prior_threshold``): with that, classes in more than one image of 1000 weigh alike. Here t is 1. R
    (``prior_cap``), and the weight of images without an object, which the paper does not have, are ours.
    """
    return labels.largest(_factors(labels.image_shares, config), config.empty_weight)


def instance_repeat_factor(labels: Labels, config: SamplerConfig) -> FloatArray:
    """Return the same with √(f·g) in place of f, g being the class's share of the objects (Yaman et al. 2023)."""
    return labels.largest(_factors(np.sqrt(labels.image_shares * labels.object_shares), config), config.empty_weight)


def empties(labels: Labels, config: SamplerConfig) -> FloatArray:
    """Return 1 for images with an object of known class, ``empty_weight`` for the others."""
    return np.where(labels.empty, config.empty_weight, 1.0)


def segments(labels: Labels, config: SamplerConfig) -> FloatArray:
    """Return n^−e, n being the number of eligible images in the image's sequence: de-duplication without labels.

    Raises:
        InputError: nobody knows the sequences.
    """
    if not len(labels.segments):
        raise InputError("prior 'segments' needs the sequence of each example: give Labels its segments")
    sizes = np.bincount(labels.segments, labels.eligible)
    return np.maximum(sizes, 1)[labels.segments] ** -config.prior_exponent


class ClassAdaptive:
    """CAP, a class-adaptive prior (ours): classes weigh by how rare they are and by how wrong the model still is.

    π is the largest over an image's classes of (E_c / (E_max · f_c))^e, at most R. E_c is the mean of the bounded error
    1 − a over the drawn objects of class c, each counted 1/(M·p) for its probability p at the draw, so that it is the
    mean over the data set; older windows fade by half. It is 1 for a class that was not drawn yet. Validation has no
    part in it. An image without an object of known class weighs ρ · F, between ``empty_least`` and 1: ρ is
    ``empty_weight``, F the share of such images with a foreground probability above ½, likewise, relative to that of
    the first window (at least 0.01); 1 if the detector does not tell.
    """

    observes = "error"
    LEAST_ALARMS = 0.01

    def __init__(self, labels: Labels, config: SamplerConfig):
        self.labels, self.config = labels, config
        self.mean = ObservedMean(labels, labels.classes, labels.num_classes + 1, decay=0.5)
        self.first_alarms = np.nan

    def prior(self) -> FloatArray:
        """Return [N] float64, from what was observed until the last window closed."""
        present = self.labels.image_shares > 0
        errors = np.where(np.isnan(self.mean.values), 1.0, self.mean.values)
        highest = errors[present].max(initial=0.0)
        relative = errors / highest if highest > 0 else np.ones_like(errors)
        shares = np.where(present, self.labels.image_shares, 1.0)
        weights = np.minimum((relative / shares) ** self.config.prior_exponent, self.config.prior_cap)
        alarms = self.mean.values[0] / max(self.first_alarms, self.LEAST_ALARMS)
        rise = 1.0 if np.isnan(alarms) else float(alarms)
        empty = min(max(self.config.empty_least, self.config.empty_weight * rise), 1.0)
        found = self.labels.largest(weights, empty)
        return found if found.any() else np.ones_like(found)

    def observe(self, indices: IntArray, weights: FloatArray, observed: FloatArray) -> None:
        """Take in what a step saw of its examples.

        Args:
            indices: [n] drawn examples; weights: [n] 1/(M·p) of each.
            observed: [n, K + 2], as ``isod.sampling.scores.observations`` gives it.
        """
        self.mean.add(indices, weights, observed, observed[:, -1])

    def close_window(self) -> None:
        """Move on to what was observed since the last window closed."""
        self.mean.close_window()
        if np.isnan(self.first_alarms):
            self.first_alarms = float(self.mean.values[0])

    def state_dict(self) -> dict[str, Any]:
        """Return what later priors depend on beside the labels: numpy arrays and plain numbers."""
        return self.mean.state_dict() | {"first_alarms": self.first_alarms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.mean.load_state_dict(state)
        self.first_alarms = float(state["first_alarms"])


class Progress:
    """Images whose objects are just being learnt (ours): what is learnt, and what cannot be, is left.

    A stratum is a class at a size, or all images without an object of known class. Its weight is the root of the fall
    of its mean −log a: the mean that fades slowly over the windows less the one that fades fast, 0 if it rose. π is the
    largest weight of an image's strata. A stratum that was not drawn yet weighs as the highest one. Before the second
    window closes, and where nothing falls, all weigh alike.
    """

    observes = "loss"

    def __init__(self, labels: Labels, config: SamplerConfig):
        sizes = labels.sizes if len(labels.sizes) else np.zeros(len(labels.classes), np.uint8)
        strata, number = np.where(labels.classes > 0, 3 * (labels.classes - 1) + sizes + 1, 0), 3 * labels.num_classes
        self.strata = replace(labels, classes=strata, num_classes=number)  # a stratum is a class of its own
        self.slow, self.fast = (ObservedMean(labels, strata, number + 1, decay=decay) for decay in (0.9, 0.5))

    def prior(self) -> FloatArray:
        """Return [N] float64, as ``ClassAdaptive.prior``."""
        weights = np.sqrt(np.maximum(self.slow.values - self.fast.values, 0.0))
        highest = np.nanmax(weights, initial=0.0)
        weights = np.where(np.isnan(weights), highest, weights) if highest > 1e-9 else np.ones_like(weights)
        return self.strata.largest(weights, float(weights[0]))

    def observe(self, indices: IntArray, weights: FloatArray, observed: FloatArray) -> None:
        """As ``ClassAdaptive.observe``."""
        for mean in (self.slow, self.fast):
            mean.add(indices, weights, observed, observed[:, -2])

    def close_window(self) -> None:
        """As ``ClassAdaptive.close_window``."""
        self.slow.close_window()
        self.fast.close_window()

    def state_dict(self) -> dict[str, Any]:
        """As ``ClassAdaptive.state_dict``."""
        return {"slow": self.slow.state_dict(), "fast": self.fast.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.slow.load_state_dict(state["slow"])
        self.fast.load_state_dict(state["fast"])


class ObservedMean:
    """Means of a number over the drawn objects of each stratum, and over the images without an object (stratum 0).

    Args:
        labels: of the examples.
        strata: [K] int, stratum of each object, 0 to leave it out.
        count: of strata, number 0 included.
        decay: what a window's sums are multiplied by when the next one closes.
    """

    def __init__(self, labels: Labels, strata: IntArray, count: int, *, decay: float):
        self._labels, self._strata, self._decay = labels, strata, decay
        self._open = np.zeros((2, count))  # sums of weight · number, and of weights, in the window under way
        self._closed = np.zeros((2, count))

    @property
    def values(self) -> FloatArray:
        """[count], of the windows that have closed; NaN where nothing was drawn."""
        total, weight = self._closed
        return np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0)

    def add(self, indices: IntArray, weights: FloatArray, observed: FloatArray, of_empties: FloatArray) -> None:
        """Take in the numbers of drawn examples [n], with weights [n].

        Args:
            observed: [n, K + 2], the number of each object in the order of the labels, NaN for none; then two others.
            of_empties: [n], the number of the image, which counts where it has no object of known class.
        """
        counts = self._labels.counts[indices]
        rows = np.repeat(np.arange(len(indices)), counts)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        strata = self._strata[self._labels.firsts[indices][rows] + places]
        last = observed.shape[1] - 1
        told = (strata > 0) & (places < last - 1)  # an image that does not decode may have more objects than columns
        self._sum(strata, weights[rows], np.where(told, observed[rows, np.minimum(places, last)], np.nan))
        empty = self._labels.empty[indices]
        self._sum(np.zeros(len(indices), np.int64), weights, np.where(empty, of_empties, np.nan))

    def _sum(self, strata: IntArray, weights: FloatArray, numbers: FloatArray) -> None:
        seen = ~np.isnan(numbers)
        for row, values in enumerate((weights * numbers, weights)):
            self._open[row] += np.bincount(strata[seen], values[seen], minlength=self._open.shape[1])

    def close_window(self) -> None:
        """Add the window under way to the ones before, which fade."""
        self._closed = self._decay * self._closed + self._open
        self._open = np.zeros_like(self._open)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, numpy arrays."""
        return {"open": self._open.copy(), "closed": self._closed.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._open, self._closed = (np.array(as_numpy(state[name])) for name in ("open", "closed"))


def class_weights(labels: Labels, config: SamplerConfig) -> FloatArray:
    """Return [C + 1], what a class's highest object score is multiplied by in the reduction "class_max": its repeat
    factor, and ``empty_weight`` for the background and for objects of unknown class."""
    weights = _factors(labels.image_shares, config)
    weights[0] = config.empty_weight
    return weights


def _factors(shares: FloatArray, config: SamplerConfig) -> FloatArray:
    """Return max(1, (t/f)^e), at most R; 1 for classes that no image has."""
    present = np.where(shares > 0, shares, config.prior_threshold)
    return np.clip((config.prior_threshold / present) ** config.prior_exponent, 1, config.prior_cap)
