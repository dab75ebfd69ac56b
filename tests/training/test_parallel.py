"""One run on two ranks (gloo, CPU, float64): the run of one process with the whole batch."""

import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import multiprocessing, nn

from isod.data.store.split import CropStore
from isod.detector.batch_norm import GlobalBatchNorm2d, over_all_ranks
from isod.errors import InputError
from isod.sampling.samplers import SAMPLERS
from isod.training.examples import TrainingExamples, labels_of
from isod.training.folder import RunFolder
from isod.training.loop import train
from isod.training.run import Run
from isod.training.stream import WHOLE_BATCH, Batch, BatchPart, local_stream
from isod.training.trainer import Trainer
from isod.training.validation import ValidationCrops
from tests.training.tiny_run import UNTIMED, Reports, limited, tiny_run, weights_of

RANKS = 2
CPU = torch.device("cpu")
# Example weights, mirrored crops: everything that a batch's slots can differ in.
CONFIG = replace(tiny_run(iterations=30, validate_every=10, flip=True), sampler=SAMPLERS["LIS-unbiased"])
# A sampler that sees the objects of both parts.
ADAPTIVE = replace(CONFIG, sampler=replace(SAMPLERS["CAP"], window=4))


def stream_of(config, split, part, state=None, interrupt_at=None):
    """This rank's stream."""
    labels = None if config.sampler.prior is None else labels_of(split, split.readable)
    examples = TrainingExamples(len(split), split.readable, labels=labels)
    return Recording(local_stream(config, split, examples, workers=1, state=state, part=part), interrupt_at)


class Recording:
    """A stream that remembers every step's examples and scores, and is interrupted before a step."""

    def __init__(self, stream, interrupt_at):
        self._stream = stream
        self._interrupt_at = interrupt_at
        self.sent = []

    def __getattr__(self, name):
        return getattr(self._stream, name)

    def send_scores(self, step, indices, scores, observed=None):
        self.sent.append((step, indices.tolist(), scores.tolist()))
        self._stream.send_scores(step, indices, scores, observed)

    def batches(self, start, stop):
        for batch in self._stream.batches(start, stop):
            if batch.step == self._interrupt_at:
                raise KeyboardInterrupt
            yield batch


def run_on(part, store_uri, out, interrupt_at=None, config=CONFIG):
    """Rank 0's or the other rank's share of a run in a folder. Returns what its stream saw; () if interrupted."""
    store = CropStore.open(store_uri)
    split = store.split("train")
    made = []

    def make(state):
        made.append(stream_of(config, split, part, state, interrupt_at))
        return made[0]

    try:
        run = Run(config=config, store=store, folder=RunFolder(out), device=CPU, part=part, holdout_cache=out)
        if part.rank == 0:
            run.train(lambda examples, state: make(state), Reports())
        else:

            def follower_stream(start):
                saved = torch.load(out / f"checkpoint-{start:09}.pt", weights_only=True)["table"] if start else None
                return make(saved)

            run.follow(follower_stream)
    except KeyboardInterrupt:
        return []
    return made[0].sent


def hand_made_batches(split):
    """Batches of 8 that go wrong on one rank: no object in the second half, and a crop that does not decode."""
    indices = np.arange(8)
    draw = SimpleNamespace(indices=indices, weights=np.ones(8))
    crops = split.read(indices)
    empty = replace(crops, objects=crops.objects.emptied(indices >= 4))
    lost = replace(crops, unreadable=indices == 2)
    return [Batch(0, draw, empty), Batch(1, draw, lost)]


def step_by_step(part, store_uri, normalisation):
    """Results of hand-made batches, of which only this part is trained on."""
    store = CropStore.open(store_uri)
    config = replace(tiny_run(loss_normalisation=normalisation), sampler=SAMPLERS["CAP"])
    trainer = Trainer(config, store.meta, CPU, part)
    results = []
    for batch in hand_made_batches(store.split("train")):
        others = ~np.isin(np.arange(8), part.of(np.arange(8)))
        results.append(trainer.step(replace(batch, crops=batch.crops.without(others))))
    return [vars(result) for result in results], trainer.model.state_dict()


def norm_inputs():
    """Input [6, 3, 4, 5] and gradient of its normalised values, far from zero mean."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(2, 6, 3, 4, 5, generator=generator, dtype=torch.float64)
    return 50 + 3 * x, gradient


def norm_of(norm, part):
    """Two steps of a normalisation on a part of the input: output, gradients, state."""
    x, gradient = norm_inputs()
    inputs = torch.from_numpy(part.of(x.numpy())).clone().requires_grad_()
    for _ in range(2):
        output = norm(inputs)
    output.backward(torch.from_numpy(part.of(gradient.numpy())))
    return output.detach(), inputs.grad, norm.weight.grad, norm.bias.grad, norm.state_dict()


def seeded_norm():
    norm = nn.Sequential(nn.BatchNorm2d(3, momentum=0.2))
    with torch.no_grad():
        norm[0].weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        norm[0].bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    return norm


def diverge(part, store_uri):
    """The sentence that a rank ends with when only the last rank's crops make the loss not finite."""
    store = CropStore.open(store_uri)
    trainer = Trainer(tiny_run(), store.meta, CPU, part)
    batch = hand_made_batches(store.split("train"))[0]
    crops = batch.crops.without(~np.isin(np.arange(8), part.of(np.arange(8))))
    weights = np.where(np.arange(8) == 7, np.nan, 1.0)
    try:
        trainer.step(replace(batch, crops=crops, draw=SimpleNamespace(indices=np.arange(8), weights=weights)))
    except FloatingPointError as error:
        return str(error)
    return ""


def on_rank(rank, folder, store_uri):
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    part = BatchPart(rank, RANKS)
    norm = seeded_norm()
    over_all_ranks(norm)
    assert isinstance(norm[0], GlobalBatchNorm2d)
    found = {
        "run": run_on(part, store_uri, folder / "run"),
        "interrupted": run_on(part, store_uri, folder / "resumed", interrupt_at=20),
        "resumed": run_on(part, store_uri, folder / "resumed"),
        "adaptive": run_on(part, store_uri, folder / "adaptive", config=ADAPTIVE),
        "location": step_by_step(part, store_uri, "location"),
        "object": step_by_step(part, store_uri, "object"),
        "norm": norm_of(norm[0], part),
        "diverged": diverge(part, store_uri),
    }
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tiny_store, tmp_path_factory):
    """What each of two ranks found, and their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(on_rank, args=(folder, os.fspath(tiny_store)), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)], folder


@pytest.fixture
def float64():
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)
    torch.set_num_threads(threads)


def test_two_ranks_are_one_process_with_the_whole_batch(both, float64, tiny_store, tmp_path):
    """Same ids in every step, same scores, same curves, weights close."""
    (first, second), folder = both
    alone = run_on(WHOLE_BATCH, tiny_store, tmp_path)
    assert [step for step, *_ in alone] == list(range(30))
    for found in (first["run"], second["run"]):
        assert [ids for _, ids, _ in found] == [ids for _, ids, _ in alone]
        np.testing.assert_allclose([s for *_, s in found], [s for *_, s in alone], rtol=1e-5, atol=1e-6)
    tables = [pd.read_csv(path / "metrics.csv", index_col="iteration") for path in (folder / "run", tmp_path)]
    one, other = (table.drop(columns=UNTIMED) for table in tables)
    assert one.index.tolist() == [10, 20, 30]
    pd.testing.assert_frame_equal(one, other, rtol=1e-5)
    expected = weights_of(tmp_path)
    for name, value in weights_of(folder / "run").items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    examples = [pd.read_parquet(path / "examples.parquet") for path in (folder / "run", tmp_path)]
    pd.testing.assert_frame_equal(*examples, rtol=1e-5)


def test_two_ranks_draw_by_what_both_see(both, float64, tiny_store, tmp_path):
    (first, second), _ = both
    alone = run_on(WHOLE_BATCH, tiny_store, tmp_path, config=ADAPTIVE)
    assert first["adaptive"] == second["adaptive"]
    assert [ids for _, ids, _ in first["adaptive"]] == [ids for _, ids, _ in alone]


def test_ranks_agree_to_the_last_bit_and_a_restart_changes_nothing(both):
    (first, second), folder = both
    assert first["run"] == second["run"]
    assert first["interrupted"] == second["interrupted"] == []
    assert first["resumed"] == second["resumed"] == first["run"][20:]
    expected = weights_of(folder / "run")
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(folder / "resumed").items())


@pytest.mark.parametrize("normalisation", ["location", "object"])
def test_a_rank_without_objects_and_a_crop_that_does_not_decode(both, float64, tiny_store, normalisation):
    results, state = step_by_step(WHOLE_BATCH, tiny_store, normalisation)
    for found in both[0]:
        for result, expected in zip(found[normalisation][0], results, strict=True):
            assert result["losses"] == pytest.approx(expected["losses"], rel=1e-5)
            for name in ("scores", "class_losses", "box_losses", "margins", "observed"):
                np.testing.assert_allclose(result[name], expected[name], rtol=1e-5, err_msg=name)
            np.testing.assert_array_equal(result["unreadable"], expected["unreadable"])
        for name, value in found[normalisation][1].items():
            torch.testing.assert_close(value, state[name], rtol=1e-5, atol=1e-6)
    assert results[0]["box_losses"][4:].tolist() == [0] * 4
    assert results[1]["scores"][2] == 0
    assert results[1]["unreadable"].tolist() == [False] * 2 + [True] + [False] * 5


def test_normalisation_is_torchs_own_over_the_whole_batch(both, float64):
    """Outputs and input gradients side by side, weight gradients added up; running statistics under the same names."""
    output, d_x, d_weight, d_bias, state = norm_of(seeded_norm()[0], WHOLE_BATCH)
    outputs, d_xs, d_weights, d_biases, states = zip(*(found["norm"] for found in both[0]), strict=True)
    torch.testing.assert_close(torch.cat(outputs), output)
    torch.testing.assert_close(torch.cat(d_xs), d_x)
    torch.testing.assert_close(sum(d_weights), d_weight)
    torch.testing.assert_close(sum(d_biases), d_bias)
    for found in states:
        assert list(found) == list(state)
        for name, value in found.items():
            torch.testing.assert_close(value, state[name])


def test_a_loss_that_is_not_finite_on_one_rank_ends_both(both):
    for found in both[0]:
        assert found["diverged"] == f"loss is nan at step 0, examples {list(range(8))}"


def test_out_of_memory_says_the_batch_of_all_ranks_that_would_fit(tiny_store):
    """A rank with room for two of its four crops; nobody answers it any more while it tries."""

    store, config, part = CropStore.open(tiny_store), tiny_run(), BatchPart(1, RANKS)
    trainer = limited(lambda images, training: len(images) <= 2)(config, store.meta, CPU, part)
    stream = stream_of(config, store.split("train"), part)
    with pytest.raises(InputError, match=r"batch of 8 crops on 2 workers .*; 4 fit: set --batch-size 4"):
        train(trainer, stream, ValidationCrops(store.split("val"), 8), lambda *row: None)
