"""Crops that are nearly the same picture, found by a difference hash.

The hash is of the crop in grey, averaged to 9×8 cells: each bit says whether a cell is brighter than its left one.
It sees the scene, not a small object in it: two tiles of one empty road differ less than any threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from isod.data.store.split import CropSplit

CELLS = (8, 9)  # rows and columns of the thumbnail
BITS = 3  # of 64: hashes of near-identical crops differ in at most so many …
LEVELS = 6.0  # … and their thumbnails' cells by so many grey levels of 255 in the mean, as flat crops hash at random
BATCH = 256  # crops read, and rows compared, at once
MOST = 100_000  # crops that are compared; of more, a random sample

_WEIGHTS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))


@dataclass(frozen=True)
class Fingerprints:
    """Hashes and thumbnails of crops."""

    indices: NDArray[np.int64]  # [n] of the crops, in the split
    hashes: NDArray[np.uint64]  # [n]
    thumbnails: NDArray[np.uint8]  # [n, 72] grey levels


def thumbnail(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image [H, W] averaged to 8 rows of 9 cells, [72]."""
    rows, columns = CELLS
    return np.asarray(Image.fromarray(grey).resize((columns, rows), Image.Resampling.BOX)).reshape(-1)


def difference_hash(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the hashes [n] of thumbnails [n, 72]; bit 8·row + column compares columns ``column`` and + 1."""
    cells = thumbnails.reshape(-1, *CELLS)
    bits = (cells[:, :, 1:] > cells[:, :, :-1]).reshape(-1, 64)
    return (bits * _WEIGHTS).sum(1, dtype=np.uint64)


def fingerprints(
    split: CropSplit, *, seed: int = 0, advance: Callable[[int], None] = lambda count: None
) -> Fingerprints:
    """Read the crops of a split, at most ``MOST``, and return their fingerprints; those that do not decode left out.

    Args:
        advance: called with the number of crops just read.
    """
    indices = split.readable
    if len(indices) > MOST:
        indices = np.sort(np.random.default_rng(seed).choice(indices, MOST, replace=False))
    kept, thumbnails = [], []
    for index, data in _files(split, indices):
        advance(1)
        try:
            grey = simplejpeg.decode_jpeg(data, "GRAY", min_height=64, min_width=72)[..., 0]
        except ValueError:
            continue
        kept.append(index)
        thumbnails.append(thumbnail(grey))
    found = np.array(thumbnails, np.uint8).reshape(-1, CELLS[0] * CELLS[1])
    return Fingerprints(np.array(kept, np.int64), difference_hash(found), found)


def _files(split: CropSplit, indices: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(indices), BATCH):
        batch = indices[start : start + BATCH]
        yield from zip(batch.tolist(), split.read_encoded(batch), strict=True)


def near_identical(of: Fingerprints, among: Fingerprints | None = None) -> NDArray[np.int64]:
    """Return [n], for each crop the place in ``among`` of the first one that is nearly the same picture, −1 for none.

    Args:
        among: whose crops to look at; by default those of ``of`` that are before the crop.
    """
    earlier = among is None
    among = of if among is None else among
    found = np.full(len(of.hashes), -1, np.int64)
    for start in range(0, len(of.hashes), BATCH):
        rows = slice(start, min(start + BATCH, len(of.hashes)))
        others = among.hashes[: rows.stop] if earlier else among.hashes
        close = np.bitwise_count(of.hashes[rows, None] ^ others) <= BITS
        if earlier:
            close = np.tril(close, start - 1)  # row r of the batch is crop start + r
        places, candidates = np.nonzero(close)
        pairs = of.thumbnails[start + places].astype(np.int16) - among.thumbnails[candidates]
        same = np.abs(pairs).mean(1) <= LEVELS
        places, firsts = np.unique(places[same], return_index=True)
        found[start + places] = candidates[same][firsts]
    return found


def group_count(sizes: ArrayLike) -> float:
    """Return (Σn)²/Σn², how many equally large groups are as uneven as these; 0 for none."""
    counts = np.asarray(sizes, np.float64)
    return float(counts.sum() ** 2 / np.square(counts).sum()) if len(counts) else 0.0
