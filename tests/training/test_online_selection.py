"""Steps and runs that choose their batch among candidates."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from isod.config.settings import DetectorConfig, HoldoutConfig, ResourceConfig
from isod.data.store.split import CropStore
from isod.detector.model import DETECTORS
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS
from isod.sampling.table import ImportanceTable
from isod.training.examples import TrainingExamples, check_examples
from isod.training.holdout import holdout_run
from isod.training.loop import train
from isod.training.predictor import ScorePredictor
from isod.training.stream import Batch, local_stream
from isod.training.trainer import Trainer, _with_predicted
from isod.training.validation import ValidationCrops
from tests.training.tiny_run import DETECTOR, limited, run_here, tiny_run

CPU = torch.device("cpu")
BATCH, CANDIDATES = 8, 4


def stream_of(config, store):
    split = store.split("train")
    offset = np.zeros(len(split)) if config.sampler.holdout else None
    return local_stream(config, split, TrainingExamples(len(split), split.readable, offset), workers=1)


def first_batch(config, store):
    return next(stream_of(config, store).batches(0, 1))


def part_of(batch, places, weights):
    """The batch of some of its crops."""
    crops = batch.crops
    chosen = replace(
        crops, indices=crops.indices[places], images=crops.images[places], objects=crops.objects[places],
        unreadable=crops.unreadable[places],
    )  # fmt: skip
    draw = batch.draw._replace(indices=batch.draw.indices[places], weights=weights)
    return Batch(batch.step, draw, chosen)


SMALL = DetectorConfig(pyramid_channels=64, anchor_scale=0.25, proposals=16)


@pytest.mark.parametrize(
    ("name", "detector"),
    [
        *((name, DETECTOR) for name in ("online-top", "online-proportional", "online-percentile")),
        *(
            pytest.param("online-top", replace(SMALL, name=name), marks=[] if name == "fcos" else [pytest.mark.slow])
            for name in DETECTORS
            if name != "thesis"
        ),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_step_is_the_baselines_step_on_what_was_chosen(tiny_store, name, detector):
    """Running statistics included: the pass that scores the candidates leaves nothing behind. The
    weights are 1/(n·p) by hand, the candidates' scores those of the detector in evaluation mode."""
    store, config = CropStore.open(tiny_store), replace(tiny_run(name), detector=detector)
    batch = first_batch(config, store)
    assert len(batch.draw.indices) == CANDIDATES * BATCH
    trainer = Trainer(config, store.meta, CPU)
    expected = trainer.score(batch.crops)
    result = trainer.step(batch)
    np.testing.assert_array_equal(result.scores, expected)
    assert len(result.chosen) == BATCH
    if name == "online-top":
        assert result.scores[result.chosen].tolist() == sorted(expected, reverse=True)[:BATCH]
    weights = np.ones(BATCH)
    if name == "online-proportional":
        weights = expected.mean() / expected[result.chosen]
        assert (weights != 1).all()
    alone = Trainer(replace(tiny_run("baseline"), detector=detector), store.meta, CPU)
    found = alone.step(part_of(batch, result.chosen, weights))
    assert found.losses == pytest.approx(result.losses, rel=1e-6)
    for key, value in alone.model.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[key], value, rtol=1e-6, atol=1e-7)


def test_a_hold_out_model_and_a_crop_that_does_not_decode_count_in_the_choice(tiny_store):
    """The highest score less the hold-out model's; a crop that does not decode comes last."""
    store, config = CropStore.open(tiny_store), tiny_run("online-RHO")
    batch = first_batch(config, store)
    offset = np.random.default_rng(0).normal(0, 0.5, len(store.split("train")))
    plain = Trainer(config, store.meta, CPU, offset=offset).step(batch)
    less = plain.scores - offset[batch.draw.indices]
    assert set(plain.chosen.tolist()) == set(np.argsort(-less)[:BATCH].tolist())
    lost = np.isin(np.arange(len(less)), plain.chosen[:2])
    batch = replace(batch, crops=replace(batch.crops, unreadable=lost))
    rest = Trainer(config, store.meta, CPU, offset=offset).step(batch)
    assert not set(rest.chosen.tolist()) & set(plain.chosen[:2].tolist())
    assert rest.scores[lost].tolist() == [0, 0]


def test_weights_of_the_draw_and_of_the_choice_multiply(tiny_store):
    """LIS-unbiased draws the candidates, so that they have weights of their own."""
    store = CropStore.open(tiny_store)
    sampler = replace(SAMPLERS["LIS-unbiased"], candidates=2, selection="proportional")
    config = replace(tiny_run(), sampler=sampler)
    batch = first_batch(config, store)
    own = np.linspace(0.5, 2, 2 * BATCH)
    trainer, seen = Trainer(config, store.meta, CPU), []
    loss = trainer.model.loss

    def watched(images, objects, *, example_weights=None):
        seen.append((len(images), trainer.model.training, torch.is_grad_enabled(), example_weights))
        return loss(images, objects, example_weights=example_weights)

    trainer.model.loss = watched
    result = trainer.step(replace(batch, draw=batch.draw._replace(weights=own)))
    assert [row[:3] for row in seen] == [(2 * BATCH, False, False), (BATCH, True, True)]
    chosen = result.chosen
    np.testing.assert_allclose(seen[1][3].numpy(), own[chosen] * result.scores.mean() / result.scores[chosen])


def test_a_measured_score_is_not_replaced_by_a_prediction():
    """Example 7 is a candidate twice, and trains in one place: it is measured, in both."""
    indices, predicted = np.array([7, 3, 7, 5]), np.array([0.1, 0.2, 0.3, 0.4])
    rows, measured = _with_predicted(predicted, np.array([0]), np.array([[2.0], [1.5]]), indices)
    assert rows[0].tolist() == [2.0, 0.2, 2.0, 0.4]
    assert measured.tolist() == [True, False, False, False]
    table = ImportanceTable(8, seed=0)
    table.update(indices, rows[0])
    assert table.scores[7] == 2.0


def test_a_run_counts_what_it_passed_forward_and_what_trained(tiny_store, tmp_path):
    config = tiny_run("online-top", iterations=12, validate_every=4)
    run_here(config, tiny_store, tmp_path)
    table = pd.read_csv(tmp_path / "metrics.csv", index_col="iteration")
    assert table["sampler/forward_only"].tolist() == [4 * 32, 8 * 32, 12 * 32]
    examples = pd.read_parquet(tmp_path / "examples.parquet")
    assert examples["draw_count"].tolist() == [12 * 32 // 64] * 64
    assert examples["trained_count"].sum() == 12 * BATCH
    assert examples["trained_count"].max() > 12 * BATCH / 64
    losses = examples["mean_importance"]  # those that trained most often had the higher losses
    assert np.corrcoef(losses, examples["trained_count"])[0, 1] > 0.3


def test_a_predictor_learns_what_pictures_score():
    """Dark ones 0, bright ones 6: after 200 steps within a fifth, on pictures of other noise; before, it is far off."""
    predictor = ScorePredictor(0, CPU)

    def pictures(seed):
        bright = np.arange(16) % 2
        noise = np.random.default_rng(seed).integers(0, 60, (16, 3, 33, 50))
        images = torch.from_numpy((noise + 180 * bright[:, None, None, None]).astype(np.uint8))
        return images, torch.from_numpy(6.0 * bright)

    images, scores = pictures(1000)
    assert (predictor.predict(images) - scores).abs().max() > 3
    for seed in range(200):
        predictor.fit(*pictures(seed))
    assert (predictor.predict(images) - scores).abs().max() < 1.2
    assert predictor.predict(images).min() > 0


def test_a_step_by_predicted_scores(tiny_store):
    """The detector passes over what trains alone, and with weights of the predictions; what it measures is what the
    baseline's step measures of the same crops."""
    store, config = CropStore.open(tiny_store), tiny_run("online-predicted")
    batch = first_batch(config, store)
    trainer, sizes = Trainer(config, store.meta, CPU), []
    loss = trainer.model.loss

    def watched(images, objects, **options):
        sizes.append(len(images))
        return loss(images, objects, **options)

    trainer.model.loss = watched
    predicted = ScorePredictor(config.training.seed, CPU).predict(
        torch.from_numpy(batch.crops.images).permute(0, 3, 1, 2)
    )
    result = trainer.step(batch)
    assert sizes == [BATCH]
    np.testing.assert_array_equal(result.measured, np.isin(np.arange(32), result.chosen))
    np.testing.assert_allclose(result.scores[~result.measured], predicted[~result.measured], rtol=1e-5)
    assert np.isnan(result.class_losses[~result.measured]).all()
    weights = (predicted.double().mean() / predicted[result.chosen].double()).numpy()
    alone = Trainer(replace(tiny_run("baseline"), sampler=SAMPLERS["LIS"]), store.meta, CPU)
    found = alone.step(part_of(batch, result.chosen, weights))
    assert found.losses == pytest.approx(result.losses, rel=1e-5)
    for name in ("scores", "class_losses", "box_losses", "margins"):
        np.testing.assert_allclose(getattr(result, name)[result.chosen], getattr(found, name), rtol=1e-5)


def test_a_run_by_predicted_scores_has_statistics_of_what_trained(tiny_store, tmp_path):
    run_here(tiny_run("online-predicted", iterations=12, validate_every=4), tiny_store, tmp_path)
    table = pd.read_csv(tmp_path / "metrics.csv", index_col="iteration")
    assert "sampler/forward_only" not in table
    assert table["sampler/correlation_class_loss"].notna().all()
    examples = pd.read_parquet(tmp_path / "examples.parquet")
    assert examples["trained_count"].sum() == 12 * BATCH
    assert not examples["margin"][examples["trained_count"] == 0].notna().any()
    assert examples["margin"][examples["trained_count"] > 0].notna().any()


def test_scores_that_are_not_finite_end_the_run_with_the_step(tiny_store):
    store, config = CropStore.open(tiny_store), tiny_run("online-top")
    trainer = Trainer(config, store.meta, CPU)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"^a score is nan at step 0, examples \[\d+, "):
        trainer.step(first_batch(config, store))


def test_out_of_memory_names_the_batch_whose_candidates_fit(tiny_store):
    """Room for 9 crops: of 32 candidates, 16 and 8, the last fit, which is a batch of 2."""
    store, config = CropStore.open(tiny_store), tiny_run("online-top")
    trainer = limited(lambda images, training: len(images) <= 9)(config, store.meta, CPU)
    with pytest.raises(InputError, match=r"with a batch of 32 crops .*; 2 fit: set --batch-size 2"):
        train(trainer, stream_of(config, store), ValidationCrops(store.split("val"), 8), lambda *row: None)


def test_what_does_not_fit_together_is_refused_at_start_up(tiny_store):
    split = CropStore.open(tiny_store).split("train")
    with pytest.raises(InputError, match=r"4 batches of candidates must not exceed the 64 training .*, got 80"):
        check_examples(tiny_run("online-top", batch_size=20), split)
    ResourceConfig(workers_per_trial=2).check_sampler(SAMPLERS["LIS"])
    with pytest.raises(InputError, match=r"'online-top' chooses among .*: workers_per_trial must be 1, got 2"):
        ResourceConfig(workers_per_trial=2).check_sampler(SAMPLERS["online-top"])


def test_the_hold_out_model_trains_on_all_that_it_draws():
    config = holdout_run(tiny_run("online-RHO"), HoldoutConfig(batch_size=4), 20)
    assert config.draw_size == config.training.batch_size == 4
