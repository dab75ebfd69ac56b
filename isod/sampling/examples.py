"""What the table keeps per example, and random numbers and orders that depend on the seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isod.errors import InputError
from isod.sampling.kernels import INELIGIBLE, UNSCORED, bitset, philox

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Examples:
    """Scores and statistics of N examples, of which M are *eligible*: they may be drawn. All arrays are [N].

    score        float64 (float32 where the sampler keeps a second number per example): the importance, 0 until scored
    draw_count   int32: how often it was drawn
    last_step    int32: number of the update that scored it last, −1 while it has no score, −2 if it is not eligible
    score_count  uint16: how many scores it was given, at most 65535
    mean         float32: mean of the scores given, less the offset (over about the last 65535)
    extra        float32: a second number that some histories keep; else empty
    offset       float32: the hold-out model's score, which is subtracted from each score; else empty
    prior        float64: what multiplies the score in a draw, at most 1; else empty
    group        int32: whose limit clips the score in a draw; else empty
    """

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        eligible: IntArray | None,
        extra: bool,
        signed: bool,
        run_length: int | None = None,
    ):
        if size < 1:
            raise InputError(f"an importance table needs at least one example, got {size}")
        if size >= 2**31:
            raise InputError(f"an importance table holds fewer than 2³¹ examples, got {size}")
        if not 0 <= seed < 2**64:
            raise InputError(f"seed must be in 0 … 2⁶⁴ − 1, got {seed}")
        if run_length is not None and run_length < 1:
            raise InputError(f"run_length must be ≥ 1, got {run_length}")
        self.size = size
        self.seed = np.uint64(seed)
        narrow = extra or signed
        self.score: NDArray[Any] = np.zeros(size, np.float32 if narrow else np.float64)
        # Side by side in memory: a draw and its update then miss the cache once per example, not four times.
        self._records = np.zeros(
            size, [("draw_count", "i4"), ("last_step", "i4"), ("mean", "f4"), ("score_count", "u2")]
        )
        self.draw_count: NDArray[np.int32] = self._records["draw_count"]
        self.last_step: NDArray[np.int32] = self._records["last_step"]
        self.mean: NDArray[np.float32] = self._records["mean"]
        self.score_count: NDArray[np.uint16] = self._records["score_count"]
        self.last_step[:] = UNSCORED
        self.extra = np.zeros(size if extra else 0, np.float32)
        self.offset = np.zeros(size if signed else 0, np.float32)
        self.prior = np.zeros(0)
        self.group = np.zeros(0, np.int32)
        self.limits = np.zeros(0)  # of each group
        self.words = np.zeros(0, np.uint64)  # bit set of the eligible examples; empty where all are
        self.before = np.zeros(0, np.int32)
        self.eligible = size
        self.drawn = 0  # examples drawn so far, repeats counted
        self.run_length = run_length  # examples that the run will draw in all, repeats counted
        self.version = 0  # updates applied so far
        if eligible is not None:
            self._restrict(np.asarray(eligible))

    def _restrict(self, eligible: NDArray[Any]) -> None:
        if eligible.ndim != 1 or not np.issubdtype(eligible.dtype, np.integer):
            raise InputError(f"eligible must be a list of example indices, got {eligible.dtype} {eligible.shape}")
        if not len(eligible):
            raise InputError("eligible must name at least one example, got none")
        if eligible.min() < 0 or eligible.max() >= self.size:
            raise InputError(
                f"eligible indices must be in 0 … {self.size - 1}, got {eligible.min()} … {eligible.max()}"
            )
        mask = np.zeros(-(-self.size // 512) * 512, bool)
        mask[eligible] = True
        self.eligible = int(mask.sum())
        if self.eligible != len(eligible):
            raise InputError(f"eligible must not repeat an index, got {len(eligible) - self.eligible} repeated")
        self.words = np.packbits(mask, bitorder="little").view(np.uint64)
        counts = mask.reshape(-1, 512).sum(1)
        self.before = (np.cumsum(counts) - counts).astype(np.int32)
        self.last_step[~mask[: self.size]] = INELIGIBLE

    def progress(self, horizon: float) -> float:
        """Return how far the run has come towards ``horizon``, a share in (0, 1] of its draws: 0 … 1."""
        assert self.run_length is not None
        return min(self.drawn / (horizon * self.run_length), 1.0)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, bytes."""
        return sum(v.nbytes for v in vars(self).values() if isinstance(v, np.ndarray) and v.base is not self._records)

    def order(self, epoch: int, first: int, count: int) -> IntArray:
        """Return [count] int64: places ``first``, first + 1, … of an epoch's permutation of the eligible examples."""
        places = np.empty(count, np.int64)
        philox.permuted(self.seed, epoch, first, count, self.eligible, places)
        if len(self.words):
            bitset.all_nth_eligible(self.words, self.before, places)
        return places

    def uniform_pairs(self, t: int, n: int, use: int) -> tuple[FloatArray, FloatArray]:
        """Return two [n] float64 in [0, 1) that depend on (seed, t, use) alone; ``use`` as in kernels.philox."""
        u, v = np.empty(n), np.empty(n)
        philox.uniform_pairs(self.seed, t, use, u, v)
        return u, v

    def uniforms_of(self, indices: IntArray, t: int, use: int) -> FloatArray:
        """Return [n] float64 in [0, 1): one number per example that depends on (seed, t, use, example) alone."""
        out = np.empty(len(indices))
        philox.uniforms_of(self.seed, t, use, indices, out)
        return out


def as_numpy(value: Any) -> Any:
    """Return a torch tensor as an array, on the CPU its memory; and anything else as it is. Imports no torch."""
    if not hasattr(value, "detach"):
        return value
    value = value.detach().cpu()
    return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()  # numpy has no bfloat16


def as_tensors(state: Any) -> Any:
    """Return a nest of dicts and lists that torch loads with weights_only=True: arrays become tensors, and numpy's
    scalars Python's."""
    import torch  # only here: tables and schedules start without torch

    if isinstance(state, dict):
        return {key: as_tensors(value) for key, value in state.items()}
    if isinstance(state, list):
        return [as_tensors(value) for value in state]
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state if state.flags.writeable else state.copy())  # what Ray hands over is read-only
    return state.item() if isinstance(state, np.generic) else state


def as_arrays(state: Any) -> Any:
    """Return what ``as_tensors`` was given. Imports no torch."""
    if isinstance(state, dict):
        return {key: as_arrays(value) for key, value in state.items()}
    if isinstance(state, list):
        return [as_arrays(value) for value in state]
    return as_numpy(state)
