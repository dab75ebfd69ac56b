"""The importance table: a score per training example, how often each was drawn, and the draws (thesis §4.2).

    table = ImportanceTable(len(dataset), seed=0)
    draw = table.draw(128)                  # draw.indices, draw.probabilities, draw.weights
    table.update(draw.indices, losses)

The table draws in sequence, epoch by epoch, until every eligible example has a score. From then on the strategy draws.
So the first epoch is sequential whatever the strategy; where scores arrive some draws late, a part of the second one is
too. A sampler that starts with a prior draws by its strategy at once. Draw t takes its random numbers from (seed, t)
alone.

Importing this module imports numpy and numba, not torch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isod.errors import InputError
from isod.sampling.catalogue import HISTORIES, find_prior, find_strategy, prior_observes, strategy_properties
from isod.sampling.examples import Examples, FloatArray, IntArray, as_arrays, as_numpy, as_tensors
from isod.sampling.kernels import INELIGIBLE, UNSCORED, updates
from isod.sampling.priors import Labels
from isod.sampling.samplers import SamplerConfig, draw_settings
from isod.sampling.strategies.base import Slots, Strategy
from isod.sampling.strategies.epochs import Sequential

_SAVED = ("score", "draw_count", "last_step", "score_count", "mean", "extra", "offset")  # of Examples

_FAULTS = {
    1: "index {index} at position {position} is outside 0 … {last}",
    2: "example {index} at position {position} is not eligible: it may neither be drawn nor scored",
    3: "the score of example {index} at position {position} is {score}: scores must be finite",
    4: "the score of example {index} at position {position} is {score}: scores must be ≥ 0",
    5: f"the score of example {{index}} at position {{position}} is {{score}}: scores must be ≤ {updates.HIGHEST:g}",
}


class Draw(NamedTuple):
    """One batch of n indices, with what the table knew when it drew them."""

    indices: IntArray  # [n] int64; an example may occur several times
    probabilities: FloatArray  # [n] float64; of each index at this draw, given the table's version
    weights: FloatArray  # [n] float64; for the examples' losses: ones unless the sampler says otherwise
    step: int  # t: how many draws came before
    version: int  # how many updates the table had seen


class ImportanceTable:
    """Scores of ``num_examples`` examples and the draws from them.

    Args:
        num_examples: N; indices are 0 … N − 1.
        seed: of every random number, together with the number of the draw.
        sampler: strategy, smoothing, floor and so on; proportional with the thesis's smoothing by default.
        eligible: [M] indices of the examples that may be drawn, each once; all by default.
        run_length: examples that the run will draw, iterations · batch size; only a sampler that changes with the share
            of the run that is done needs it.
        settings: fields of ``sampler`` to change, for example ``floor=0.1``.

    Raises:
        InputError: a number is out of its range, an index of ``eligible`` is wrong or repeated, the run_length is
            missing, or the sampler names a strategy that does not exist or does not accept a hold-out model.
    """

    def __init__(
        self,
        num_examples: int,
        *,
        seed: int,
        sampler: SamplerConfig | None = None,
        eligible: ArrayLike | None = None,
        run_length: int | None = None,
        **settings: Any,
    ):
        config = replace(sampler or SamplerConfig(name="proportional"), **settings)
        properties = strategy_properties(config.strategy)
        if config.holdout and not properties.accepts_negative_scores:
            raise InputError(
                f"sampler holdout makes scores negative, which strategy {config.strategy!r} does not accept: its class "
                "attribute accepts_negative_scores must be True"
            )
        if config.weight_exponent and (properties.walks or properties.gives_weights):
            why = "which walks" if properties.walks else "whose own weights undo the bias"
            raise InputError(
                f"sampler weight_exponent must be 0 with strategy {config.strategy!r}, {why}, got "
                f"{config.weight_exponent}"
            )
        config.require_mixing(properties)
        if properties.walks and prior_observes(config.prior):
            raise InputError(
                f"sampler prior {config.prior!r} counts what is drawn by its probability, which strategy "
                f"{config.strategy!r}, a walk, does not report"
            )
        if (config.prior or config.start != "scores") and not properties.accepts_prior:
            raise self._no_prior(config)
        if config.subset and eligible is None:
            raise InputError(
                f"sampler {config.name!r} draws from a subset, the file {config.subset}, which a table does not read: "
                "give the table the file's indices as eligible="
            )
        if config.timed and run_length is None:
            raise InputError(
                f"sampler {config.name!r} changes after {config.horizon or config.floor_from:g} of the run's draws: "
                "give the table the run_length, which is iterations · batch size"
            )
        self.config = config
        self.num_examples = num_examples
        self.draws = 0  # draws made: the number t of the next one
        self.examples = Examples(
            num_examples,
            seed=seed,
            eligible=None if eligible is None else np.asarray(eligible),
            extra=HISTORIES[config.history].keeps_second_number,
            signed=config.holdout,
            run_length=run_length,
        )
        self._history = getattr(updates, config.history.upper())
        strategy = find_strategy(config.strategy)(self.examples, config)
        self._strategy: Strategy = strategy
        # A strategy in epochs continues the permutation that the table began with.
        self._first = strategy if isinstance(strategy, Sequential) else Sequential(self.examples, config)
        self._unscored = self.examples.eligible
        self._labels: Labels | None = None  # that the prior is from
        self._adaptive: Any = None  # a prior that follows the training, see sampling.priors.ClassAdaptive
        self._previous = np.zeros(0, np.int64)  # indices of the last draw
        self._has_offset = False

    @property
    def version(self) -> int:
        """How many updates the table has seen."""
        return self.examples.version

    # --- drawing -----------------------------------------------------------------------------------------------------

    def draw(self, n: int) -> Draw:
        """Draw the next batch: ``n`` indices, with their probabilities and weights.

        Raises:
            InputError: n < 1; or n > M, if the strategy draws without replacement; or the sampler needs labels, or the
                scores of a hold-out model, that the table was not given.
        """
        if n < 1:
            raise InputError(f"a draw must hold at least one example, got {n}")
        if isinstance(self._strategy, Sequential):
            self._strategy.check(n)
        if self.config.prior and not len(self.examples.prior):
            raise InputError(
                f"sampler {self.config.name!r} draws by the labels, prior {self.config.prior!r}: give the table the "
                "labels, table.set_labels(Labels.from_lists(…)), before the first draw"
            )
        if self.config.holdout and not self._has_offset:
            raise InputError(
                f"sampler {self.config.name!r} subtracts the scores of a hold-out model: give the table these scores, "
                "table.set_offset([N]), before the first draw"
            )
        t = self.draws
        slots = self._strategy.draw(t, n, self._previous) if self.primed else self._first.next_places(n)
        self.draws += 1
        self._previous = slots.indices
        self.examples.drawn += n
        updates.count_draws(slots.indices, self.examples.draw_count)
        return Draw(slots.indices, slots.probabilities, self._weights(slots), t, self.version)

    @property
    def primed(self) -> bool:
        """Whether the strategy draws from now on: every eligible example has a score, or the sampler starts at once."""
        return self._unscored == 0 or self.config.start == "prior"

    def _weights(self, slots: Slots) -> FloatArray:
        """(1/(N·p))^exponent: with exponent 1 the weighted mean over the batch estimates the mean over all examples."""
        weights = slots.weights
        if weights is None:
            weights = np.empty(len(slots.indices))
            weights.fill(1.0)  # np.ones takes a microsecond
        if self.config.weight_exponent:
            weights = weights * (self.examples.eligible * slots.probabilities) ** -self.config.weight_exponent
        return weights

    def probabilities(self, indices: ArrayLike | None = None) -> FloatArray:
        """Return the probability of each example at a draw by the strategy from the present scores, [n] float64.

        Without ``indices``, of all N examples, which costs O(N); these sum to 1. For the rejection strategies it is the
        distribution q that proposals are compared by, not that of the walk (see strategies.trees).
        """
        which = np.arange(self.num_examples) if indices is None else np.asarray(indices, np.int64)
        return self._strategy.probabilities(which)

    # --- scores ------------------------------------------------------------------------------------------------------

    def update(self, indices: ArrayLike, scores: ArrayLike) -> None:
        """Give the examples new scores.

        If an index occurs several times, its last score wins, and every one counts in the mean importance.

        Args:
            indices: [n] integers, eligible examples, drawn or not.
            scores: [n] numbers, 0 … 10¹⁵; an array, or a torch tensor on any device.

        Raises:
            InputError: one of these does not hold, or n = 0; the table is unchanged.
        """
        index, score = self.checked(indices, scores)
        e = self.examples
        if self._unscored:
            fresh = index[e.last_step[index] == UNSCORED]
            self._unscored -= len(np.unique(fresh))
        updates.apply_scores(
            self._history, self.config.momentum, index, score, e.version, e.score, e.last_step, e.score_count,
            e.mean, e.extra, e.offset, getattr(self._strategy, "key_counts", _NO_KEYS),
        )  # fmt: skip
        e.version += 1
        if self._labels is not None and self._windowed and e.version % self.config.window == 0:
            self._close_window()
        else:
            self._strategy.changed(index)

    def set_prior(self, prior: ArrayLike) -> None:
        """Draw in proportion to prior · score from the next draw on; scores stay as they are. One pass over the table.

        A prior says what is known before any score, from the labels for example; its scale does not matter. An example
        with prior 0 is drawn through smoothing and floor alone. Whoever changes the prior during a run must do it at a
        fixed step, or draws depend on when it happened.

        Args:
            prior: [N] finite, ≥ 0, above 0 for an eligible example at least.
        Raises:
            InputError: one of these does not hold, or the strategy knows no prior; the table is unchanged.
        """
        self.examples.prior = self._checked_prior(prior)
        self._strategy.rebuild()

    def _checked_prior(self, prior: ArrayLike) -> FloatArray:
        """Return the prior, its highest value 1. Raises as ``set_prior``."""
        values = np.asarray(prior, np.float64)
        if not strategy_properties(self.config.strategy).accepts_prior:
            raise self._no_prior(self.config)
        if values.shape != (self.num_examples,):
            raise InputError(f"a prior must be {self.num_examples} finite numbers ≥ 0, got shape {values.shape}")
        if not (right := np.isfinite(values) & (values >= 0)).all():
            index = int(right.argmin())
            raise InputError(
                f"a prior must be {self.num_examples} finite numbers ≥ 0, got {values[index]} for example {index}"
            )
        highest = float(values[self.examples.last_step != INELIGIBLE].max())
        if not highest > 0:
            raise InputError("a prior must be above 0 for an example that may be drawn at least, got 0 for all")
        return values / highest

    def set_labels(self, labels: Labels) -> None:
        """Set the prior that the sampler's settings make of the labels; before the first draw.

        Args:
            labels: of the N examples; ``Labels.from_lists`` makes them.
        Raises:
            InputError: the sampler has no prior, the labels are of another number of examples or count other eligible
                ones, or the prior is wrong.
        """
        if self.config.prior is None:
            raise InputError(f"sampler {self.config.name!r} reads no labels: its prior is none")
        if len(labels) != self.num_examples:
            raise InputError(f"the labels are of {len(labels)} examples and the table of {self.num_examples}")
        if not np.array_equal(labels.eligible, self.examples.last_step != INELIGIBLE):
            raise InputError("the labels count other examples than the table draws: give both the same eligible=")
        found = find_prior(self.config.prior)(labels, self.config)
        if prior_observes(self.config.prior):
            self._adaptive, found = found, found.prior()
        e, checked = self.examples, self._checked_prior(found)
        self._labels = labels
        if self.config.score_quantile < 1:
            e.group, e.limits = labels.rarest, np.full(labels.num_classes + 1, np.inf)
        e.prior = checked
        self._strategy.rebuild()

    @property
    def _windowed(self) -> bool:
        """Whether the prior, or what clips the scores, follows the training."""
        return self._adaptive is not None or len(self.examples.group) > 0

    def observe(self, indices: ArrayLike, probabilities: ArrayLike, observed: ArrayLike) -> None:
        """Tell a prior that follows the training what a step saw; before the step's ``update``. Else a no-op.

        Args:
            indices: [n] the examples; probabilities: [n] of each at its draw.
            observed: [n, ≥ 2], as ``isod.sampling.scores.observations`` gives it.
        """
        if self._adaptive is not None:
            weights = 1 / (self.examples.eligible * np.asarray(probabilities, np.float64))
            self._adaptive.observe(np.asarray(indices, np.int64), weights, np.asarray(observed, np.float64))

    def _close_window(self) -> None:
        """Compute the prior, and the limits of the scores, from what was seen so far. One pass over the table."""
        e = self.examples
        if self._adaptive is not None:
            self._adaptive.close_window()
            e.prior = self._checked_prior(self._adaptive.prior())
        if len(e.group):
            scored = np.flatnonzero(e.last_step >= 0)
            order = scored[np.argsort(e.group[scored], kind="stable")]
            groups, starts = np.unique(e.group[order], return_index=True)
            for group, scores in zip(groups, np.split(e.score[order], starts[1:]), strict=True):
                e.limits[group] = np.quantile(scores, self.config.score_quantile)
        self._strategy.rebuild()

    @staticmethod
    def _no_prior(config: SamplerConfig) -> InputError:
        return InputError(f"strategy {config.strategy!r} knows no prior: use strategy 'proportional' or 'prior'")

    def set_offset(self, offset: ArrayLike) -> None:
        """Subtract the hold-out model's scores from every later score that is not 0 (§4.2.6, eq. 3.1).

        A score of 0 means that nothing can be learnt from the example. It counts as the lowest.

        Args:
            offset: [N] finite.
        Raises:
            InputError: the sampler has no hold-out model, the table already holds scores, or the shape or a number is
                wrong.
        """
        values = np.asarray(offset, np.float64)
        if not self.config.holdout:
            raise InputError(f"sampler {self.config.name!r} subtracts no hold-out scores: its holdout is False")
        if self.version:
            raise InputError("hold-out scores must be set before the first update")
        if values.shape != (self.num_examples,):
            raise InputError(f"hold-out scores must be {self.num_examples} finite numbers, got shape {values.shape}")
        if not (finite := np.isfinite(values)).all():
            index = int(finite.argmin())
            raise InputError(
                f"hold-out scores must be {self.num_examples} finite numbers, got {values[index]} for example {index}"
            )
        self.examples.offset[:] = values
        self._has_offset = True

    def checked(self, indices: ArrayLike, scores: ArrayLike) -> tuple[IntArray, FloatArray]:
        """Return the pair as arrays that ``update`` accepts: [n] int64 and [n] float64. Raises as ``update`` does."""
        index, score = np.asarray(as_numpy(indices)), np.asarray(as_numpy(scores))
        if index.ndim != 1 or score.ndim != 1 or len(index) != len(score):
            raise InputError(
                f"an update needs as many scores as indices, one-dimensional, got {index.shape} and {score.shape}"
            )
        if not len(index):
            raise InputError("an update needs at least one example, got none")
        if index.dtype.kind not in "iu" or score.dtype.kind not in "fiu":
            raise InputError(f"indices must be integers and scores real numbers, got {index.dtype} and {score.dtype}")
        index, score = index.astype(np.int64, copy=False), score.astype(np.float64, copy=False)
        code, at = updates.first_fault(index, score, self.examples.last_step)
        if code:
            raise InputError(
                _FAULTS[code].format(index=index[at], position=at, score=score[at], last=self.num_examples - 1)
            )
        return index, score

    # --- statistics --------------------------------------------------------------------------------------------------

    @property
    def scores(self) -> NDArray[Any]:
        """[N] importance of each example at present; 0 where it has no score yet. Read-only."""
        return _read_only(self.examples.score)

    @property
    def draw_count(self) -> NDArray[np.int32]:
        """[N] how often each example was drawn. A copy."""
        return self.examples.draw_count.copy()

    @property
    def last_step(self) -> NDArray[np.int32]:
        """[N] number of the update (0, 1, …) that scored the example last; −1: none yet, −2: not eligible. A copy."""
        return self.examples.last_step.copy()

    @property
    def mean_importance(self) -> NDArray[np.float32]:
        """[N] mean of all scores that the example was given, less its offset; 0 where there were none. A copy."""
        return self.examples.mean.copy()

    @property
    def nbytes(self) -> int:
        """Memory of all per-example arrays and of what the strategy keeps on top of them, bytes."""
        return self.examples.nbytes + self._strategy.nbytes

    def effective_sample_size(self) -> float:
        """Return (Σw)²/(N·Σw²) over the eligible examples, in (0, 1]; 1 while all are 0, as draws are then uniform.

        w are the scores or, where a strategy reshapes them (RHO's shift, ranks, a prior), what it makes of them;
        smoothing and floor are left out. It costs one pass over the table.
        """
        weights = self._strategy.importance()
        total = float(weights.sum())
        return total**2 / (self.examples.eligible * float(np.square(weights).sum())) if total > 0 else 1.0

    # --- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later draws depend on: torch tensors, plain numbers; loads with weights_only=True."""
        return as_tensors(self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """Return ``state_dict`` with numpy arrays, as copies, for a process that has no torch."""
        arrays = {name: getattr(self.examples, name) for name in _SAVED} | {"previous": self._previous}
        strategy = {
            key: value.copy() if isinstance(value, np.ndarray) else value
            for key, value in self._strategy.state_dict().items()
        }
        return {
            "num_examples": self.num_examples,
            "seed": int(self.examples.seed),
            "sampler": self._signature(),
            "version": self.version,
            "draws": self.draws,
            "drawn": self.examples.drawn,
            "position": self._first.position,
            "strategy": strategy,
            "prior": self.examples.prior.copy(),
            "limits": self.examples.limits.copy(),
            "adaptive": {} if self._adaptive is None else self._adaptive.state_dict(),
            **{name: value.copy() for name, value in arrays.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` or ``snapshot`` returned: later draws are those of the saved table.

        Raises:
            InputError: the state is of another table (number of examples, seed, sampler, eligible examples, with or
                without a prior); nothing is changed.
        """
        mine = {"num_examples": self.num_examples, "seed": int(self.examples.seed), "sampler": self._signature()}
        if missing := mine.keys() - state.keys():
            raise InputError(
                f"this is no state of an importance table, it has no {', '.join(sorted(missing))}: give a sampler's or "
                "a schedule's state to that sampler or schedule"
            )
        saved = {name: state[name] for name in mine}
        saved["sampler"] = draw_settings(SamplerConfig(name="")) | saved["sampler"]  # settings newer than the state
        for name, value in mine.items():
            if saved[name] != value:
                raise InputError(f"the saved table has {name} {state[name]!r}, this one {value!r}")
        prior = as_numpy(state.get("prior", self.examples.prior[:0]))
        if bool(len(prior)) != bool(len(self.examples.prior)):
            saved_has, has = ("a prior", "none") if len(prior) else ("no prior", "one")
            raise InputError(f"the saved table has {saved_has} and this one has {has}: resume with the same labels")
        e = self.examples
        arrays = {name: as_numpy(state[name]) for name in _SAVED}
        if not np.array_equal(arrays["last_step"] == INELIGIBLE, e.last_step == INELIGIBLE):
            raise InputError("the saved table has other eligible examples than this one")
        for name, value in arrays.items():
            getattr(e, name)[:] = value
        self._has_offset = True
        e.prior = prior.copy()
        e.limits = as_numpy(state.get("limits", e.limits)).copy()
        if self._adaptive is not None:
            self._adaptive.load_state_dict(as_arrays(state["adaptive"]))
        self._previous = as_numpy(state["previous"]).copy()
        e.version, e.drawn, self.draws = int(state["version"]), int(state["drawn"]), int(state["draws"])
        self._first.position = int(state["position"])
        self._unscored = int((e.last_step == UNSCORED).sum())
        self._strategy.load_state_dict({key: as_numpy(value) for key, value in state["strategy"].items()})
        if self._unscored:
            self._first.position = int(
                state["position"]
            )  # older states of a strategy in epochs have a place of their own
        self._strategy.rebuild()

    def _signature(self) -> dict[str, Any]:
        """Return the settings that decide what is drawn, with the run's length if a horizon is a share of it."""
        settings = draw_settings(self.config)
        if self._labels is not None:
            settings["labels"] = self._labels.digest
        return settings | {"run_length": self.examples.run_length} if self.config.timed else settings


_NO_KEYS = np.zeros(0, np.int32)


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
