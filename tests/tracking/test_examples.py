"""Per-example statistics read back from a real MLflow store."""

import numpy as np
import pandas as pd
import pytest

from isod.errors import InputError
from isod.results import load_examples, load_runs
from tests.tracking.mlflow_store import Store

WRITTEN = pd.DataFrame(
    {
        "index": np.arange(3),
        "frame_id": ["a", "b", "c"],
        "draw_count": np.array([4, 0, 2], np.int32),
        "mean_importance": [0.5, np.nan, 0.25],
        "last_step": np.array([9, -1, 7], np.int32),
        "margin": [1.5, np.nan, -2.0],
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """Four runs: two with the artifact, one without, one with an earlier version's."""
    folder = tmp_path_factory.mktemp("artifact")
    parent = store.sweep()
    for sampler, seed, frame in [
        ("UIS", 1, WRITTEN),
        ("UIS", 0, WRITTEN.assign(draw_count=np.array([1, 2, 3], np.int32))),
        ("baseline", 0, WRITTEN.drop(columns="margin")),
        ("baseline", 1, None),
    ]:
        run_id = store.run(parent, sampler, seed, grid=[100], metrics=lambda *_: {"mAP": 0.1})
        if frame is not None:
            frame.to_parquet(folder / "examples.parquet")
            store.client.log_artifact(run_id, str(folder / "examples.parquet"))
    return load_runs(store.uri, store.experiment)


def test_one_row_per_run_and_example(runs):
    got = load_examples(runs, ["draw_count", "margin"])
    assert list(got.columns) == ["sampler", "seed", "index", "draw_count", "margin"]
    assert got["sampler"].tolist() == ["UIS"] * 6
    assert got["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert got["index"].tolist() == [0, 1, 2] * 2
    assert got["draw_count"].tolist() == [1, 2, 3, 4, 0, 2]
    assert got["margin"].tolist() == pytest.approx([1.5, np.nan, -2.0] * 2, nan_ok=True)
    assert got.attrs["missing"] == [
        "baseline, seed 0: examples.parquet without margin",
        "baseline, seed 1: no examples.parquet",
    ]
    assert [str(d) for d in got.dtypes] == ["category", "uint32", "int32", "int32", "float32"]
    assert got["sampler"].cat.categories.tolist() == runs.samplers


def test_what_the_baseline_left(runs):
    got = load_examples(runs, ["frame_id", "draw_count"])
    assert got["sampler"].tolist() == ["baseline"] * 3 + ["UIS"] * 6
    assert got["frame_id"].dtype == "category"
    assert got["frame_id"].tolist() == ["a", "b", "c"] * 3


def test_nothing_left_is_an_empty_table(runs):
    got = load_examples(runs, ["absent"])
    assert got.empty
    assert list(got.columns) == ["sampler", "seed", "index", "absent"]
    assert len(got.attrs["missing"]) == 4


def test_a_broken_artifact_is_refused(store, tmp_path):
    parent = store.sweep("broken")
    run_id = store.run(parent, "UIS", 0, grid=[100], metrics=lambda *_: {"mAP": 0.1})
    (tmp_path / "examples.parquet").write_text("not parquet")
    store.client.log_artifact(run_id, str(tmp_path / "examples.parquet"))
    with pytest.raises(InputError, match=rf"cannot read examples.parquet of run {run_id} \(UIS, seed 0\): .*Parquet"):
        load_examples(load_runs(store.uri, store.experiment, sweep=parent))
