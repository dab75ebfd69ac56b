"""The hold-out split, and what is subtracted from the scores (RHO, thesis §4.2.6)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from isod.config.settings import DetectorConfig, HoldoutConfig, RunConfig, TrainingConfig
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS
from isod.training import holdout
from isod.training.examples import check_examples, split_holdout
from isod.training.trainer import Trainer

TINY = DetectorConfig(width=0.125, blocks=(1, 1, 1, 1))
CONFIG = RunConfig(
    sampler=SAMPLERS["LIS-RHO"],
    detector=TINY,
    training=TrainingConfig(iterations=4, batch_size=8, validate_every=4, seed=3),
    holdout=HoldoutConfig(epochs=3, batch_size=4, detector=TINY),
)
CPU = torch.device("cpu")


def test_the_split_is_a_partition_of_the_readable_examples_set_by_the_seed():
    readable = np.setdiff1d(np.arange(1000), [0, 17, 999])
    trained, held = split_holdout(readable, 0.15, seed=1)
    assert len(held) == 150  # 15 % of 997, to the nearest
    assert np.array_equal(np.sort(np.concatenate([trained, held])), readable)
    assert np.array_equal(split_holdout(readable, 0.15, seed=1)[1], held)
    assert not np.array_equal(split_holdout(readable, 0.15, seed=2)[1], held)


def test_held_out_examples_are_never_drawn_and_every_other_score_is_reduced(tiny_store: str, tmp_path: Path):
    store = CropStore.open(tiny_store)
    split = store.split("train")
    trained, held = split_holdout(split.readable, 0.15, seed=3)
    examples = holdout.training_examples(CONFIG, store, device=CPU, workers=1, cache=tmp_path)
    assert np.array_equal(examples.eligible, trained)
    assert examples.offset is not None
    assert (examples.offset[trained] > 0).all()  # a loss
    assert (examples.offset[held] == 0).all()
    table = examples.table(CONFIG.sampler, seed=0, run_length=30 * 16)
    drawn = []
    for _ in range(30):
        drawn.append(table.draw(16).indices)
        table.update(drawn[-1], np.ones(16))
    assert table.primed
    assert not np.isin(drawn, held).any()


def test_the_scores_are_those_of_a_model_that_saw_the_held_out_examples_alone(
    tiny_store: str, tmp_path: Path, monkeypatch
):
    """Trained by hand on what ``step`` was given, then compared; no training example of the main run among it."""
    store = CropStore.open(tiny_store)
    split = store.split("train")
    trained, held = split_holdout(split.readable, 0.15, seed=3)
    seen: list[np.ndarray] = []
    step = Trainer.step

    def watched(self, batch, loaded, while_computing):
        seen.append(batch.draw.indices)
        return step(self, batch, loaded, while_computing)

    monkeypatch.setattr(Trainer, "step", watched)
    examples = holdout.training_examples(CONFIG, store, device=CPU, workers=1, cache=tmp_path)
    counts = np.bincount(np.concatenate(seen), minlength=len(split))
    assert len(seen) == -(-3 * len(held) // 4)  # three epochs in batches of four
    assert (counts[trained] == 0).all()
    assert (counts[held] >= 3).all()

    # the first remaining example again, with a model that is trained here on the same batches
    again = Trainer(holdout.holdout_run(CONFIG, CONFIG.holdout, len(held)), store.meta, CPU)
    for number, indices in enumerate(seen):
        draw = type("Draw", (), {"indices": indices, "weights": np.ones(len(indices))})
        step(again, type("Batch", (), {"step": number, "draw": draw, "crops": split.read(indices)}))
    assert examples.offset is not None
    assert again.score(split.read(trained[:1])) == pytest.approx(examples.offset[trained[:1]], rel=1e-4)


def test_one_model_serves_every_run_with_the_same_store_seed_and_settings(tiny_store: str, tmp_path: Path, monkeypatch):
    store = CropStore.open(tiny_store)
    first = holdout.training_examples(CONFIG, store, device=CPU, workers=1, cache=tmp_path)

    def never(*args, **kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(holdout, "holdout_scores", never)
    longer = replace(CONFIG, training=replace(CONFIG.training, iterations=99), sampler=SAMPLERS["LIS-RHO-rank"])
    again = holdout.training_examples(longer, store, device=CPU, workers=1, cache=tmp_path)
    assert np.array_equal(first.offset, again.offset)
    frames, kept = store.split("train").annotations().frame_ids, tmp_path / "keep.csv"
    kept.write_text("index,frame_id\n" + "".join(f"{i},{frames[i]}\n" for i in range(40)))
    for other in (
        replace(CONFIG, training=replace(CONFIG.training, seed=4)),
        replace(CONFIG, holdout=replace(CONFIG.holdout, epochs=4)),
        replace(CONFIG, sampler=replace(CONFIG.sampler, subset=str(kept))),
    ):
        with pytest.raises(AssertionError, match="trained again"):
            holdout.training_examples(other, store, device=CPU, workers=1, cache=tmp_path)


def test_scores_that_weigh_classes_are_kept_by_how_they_weigh_them(tiny_store: str):
    store, nothing = CropStore.open(tiny_store), np.zeros(0, np.int64)

    def key(**settings):
        return holdout.holdout_key(
            replace(CONFIG, sampler=replace(CONFIG.sampler, **settings)), store, nothing, nothing, CPU
        )

    assert key(empty_weight=0.5) == key()
    assert len({key(reduction="class_max", prior_cap=cap, empty_weight=w) for cap in (4, 8) for w in (0.1, 0.5)}) == 4


def test_the_hold_out_model_of_a_sampler_with_a_predictor_needs_none():
    sampler = replace(CONFIG.sampler, strategy="sequential", candidates=4, scorer="predictor")
    run = holdout.holdout_run(replace(CONFIG, sampler=sampler), CONFIG.holdout, 20)
    assert (run.sampler.candidates, run.sampler.scorer) == (1, "detector")


def test_samplers_without_hold_out_draw_from_everything(tiny_store: str, tmp_path: Path):
    store = CropStore.open(tiny_store)
    examples = holdout.training_examples(
        replace(CONFIG, sampler=SAMPLERS["LIS"]), store, device=CPU, workers=1, cache=tmp_path
    )
    assert np.array_equal(examples.eligible, store.split("train").readable)
    assert examples.offset is None
    assert not list(tmp_path.iterdir())


def test_batches_larger_than_the_data_are_refused_before_anything_is_trained(tiny_store: str):
    split = CropStore.open(tiny_store).split("train")
    with pytest.raises(InputError, match="hold-out batch_size must not exceed the 10 examples held out, got 11"):
        check_examples(replace(CONFIG, holdout=replace(CONFIG.holdout, batch_size=11)), split)
    with pytest.raises(InputError, match="batch_size must not exceed the 54 training examples of the store, got 55"):
        check_examples(replace(CONFIG, training=replace(CONFIG.training, batch_size=55)), split)
