"""Sweeps that ran apart, read as one: the whole is what one sweep would have been, and nothing unlike is mixed."""

from dataclasses import replace

import pandas as pd
import pytest

from isod.errors import InputError
from isod.results import (
    joined_runs,
    load_examples,
    load_runs,
    order_table,
    save_runs,
    saved_runs,
    speedup_table,
    write_report,
)  # fmt: skip
from isod.results.statistics.text_table import footnotes
from tests.tracking.full_sweep import write_full_sweep
from tests.tracking.mlflow_store import GRID, Store, made_up_metrics

SAMPLERS = ("baseline", "UIS")


def more_ground_truth(sampler, seed, step):
    """Of a validation set with one animal more."""
    return {name: value + (name == "GT/Animal") for name, value in made_up_metrics(sampler, seed, step).items()}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture(scope="module")
def sweep(store):
    """Makes and reads a sweep of the two samplers with these seeds."""

    def make(seeds, name="real", grid=GRID[::2], samplers=SAMPLERS, **settings):
        parent = store.sweep(name)
        for sampler in samplers:
            for seed in seeds:
                store.run(parent, sampler, seed, grid=grid, **settings)
        return load_runs(store.uri, store.experiment, parent)

    return make


@pytest.fixture(scope="module")
def first(sweep):
    return sweep([0, 1])


def test_seeds_that_ran_apart_are_one_sweep(sweep, first, tmp_path):
    whole, second = sweep(range(4)), sweep([2, 3])
    save_runs(second, tmp_path)
    save_runs(first, tmp_path / "first")
    joined = joined_runs([saved_runs(tmp_path / "first"), saved_runs(tmp_path)])
    pd.testing.assert_frame_equal(speedup_table(joined), speedup_table(whole), check_exact=True)
    pd.testing.assert_frame_equal(order_table(joined), order_table(whole), check_exact=True)
    assert speedup_table(joined)["seeds"].tolist() == [4, 4]
    assert joined.tags["isod.machine"] == "2 cores <no GPU>"  # of both, and named once
    assert set(joined.runs.index) == set(first.runs.index) | set(second.runs.index)


def test_a_report_of_two_stores_reads_both(tmp_path):
    """Seeds that ran on two machines, each with a database of its own."""
    parts = []
    for folder, seeds in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        store = Store(tmp_path / folder)
        write_full_sweep(store, ["baseline", "UIS"], seeds=seeds, grid=GRID[::4])
        runs = load_runs(store.uri)
        parts.append(
            replace(
                runs,
                runs=runs.runs[runs.runs["seed"] == seeds - 1],
                curves=runs.curves[runs.curves["seed"] == seeds - 1],
            )
        )
    joined = joined_runs(parts)
    assert {joined.store_of(run) for run in joined.runs.index} == {part.tracking_uri for part in parts}
    drawn = load_examples(joined)
    assert drawn.attrs["missing"] == []
    assert set(drawn["seed"]) == {0, 1}
    assert write_report(joined, tmp_path / "report").is_file()
    save_runs(joined, tmp_path / "saved")
    assert "tracking_uri" not in saved_runs(tmp_path / "saved").runs


def test_runs_of_unlike_devices_are_told_where_seconds_are_compared(sweep, tmp_path):
    """Also of sweeps that were saved; runs of before devices were recorded say nothing, and then nothing is said."""
    parts = []
    for seeds, device in (([0, 1], "A100"), ([2], "H200")):
        save_runs(sweep(seeds, tags={"isod.device": device}), tmp_path / device)
        parts.append(saved_runs(tmp_path / device))
    joined = joined_runs([*parts, sweep([3])])
    assert joined.devices == {"A100": 4, "H200": 2}
    start = "The runs trained on different devices, so seconds (in time, s/run) are hardly comparable:"
    told = footnotes(joined, speedup_table(joined))
    assert told[told.index(start) + 1 :] == ["  4 on A100", "  2 on H200"]
    alone = joined_runs([parts[0], sweep([3])])
    assert start not in footnotes(alone, speedup_table(alone))


def test_samplers_that_ran_apart_are_one_sweep(sweep, first):
    joined = joined_runs([first, sweep([0], samplers=["LIS"])])
    assert joined.samplers == ["baseline", "LIS", "UIS"]
    assert joined.curve("mAP", "LIS").columns.tolist() == [0]


def test_machines_and_commits_are_all_named_once(sweep, first):
    second, third = sweep([2]), sweep([3])
    second = replace(second, tags={"isod.sweep": "b", "isod.machine": "8 cores", "isod.commit": "def5678, abc1234"})
    tags = joined_runs([first, second, third]).tags
    assert (tags["isod.machine"], tags["isod.commit"]) == ("2 cores <no GPU>; 8 cores", "abc1234, def5678")
    assert tags["isod.sweep"] == "real"


def test_a_cluster_is_one_machine(sweep, first):
    cluster = "2 nodes: 32 CPUs, 2 GPUs; this one Xeon"
    parts = [replace(first, tags={"isod.machine": cluster}), replace(sweep([2]), tags={"isod.machine": "Xeon: 2 CPUs"})]
    assert joined_runs(parts).tags["isod.machine"] == f"{cluster}; Xeon: 2 CPUs"
    parts[1] = replace(parts[1], tags={"isod.machine": cluster.replace("32", "64")})
    assert joined_runs(parts).tags["isod.machine"] == f"{cluster}; {cluster.replace('32', '64')}"


def test_the_store_may_lie_elsewhere_on_another_machine(sweep, first):
    joined = joined_runs([first, sweep([2], store="s3://bucket/data/store")])
    assert joined.runs["params.store"].unique().tolist() == ["store"]


def test_demo_data_is_not_mixed_with_other_data(sweep, first):
    demo = replace(sweep([2]), tags={"isod.demo": "true"})
    for parts in ([first, demo], [demo, first]):
        with pytest.raises(InputError, match="a sweep on demo data and one on other data cannot be joined"):
            joined_runs(parts)


def test_samplers_with_another_batch_size_are_not_joined(sweep, first):
    other = sweep([0], samplers=["LIS"])
    other = replace(other, runs=other.runs.assign(**{"params.batch_size": "32"}))
    with pytest.raises(InputError, match=r"all samplers had different settings \(batch_size: 64 and 32\)"):
        joined_runs([first, other])


def test_a_setting_that_is_newer_than_a_sweep_was_at_its_default(sweep, first):
    """Runs from before torch.compile could be asked for were not compiled."""
    other = sweep([2])
    plain, compiled = (
        replace(other, runs=other.runs.assign(**{"params.training.compiled": text})) for text in ("False", "True")
    )
    assert len(joined_runs([first, plain]).runs) == 6
    with pytest.raises(InputError, match=r"different settings \(training.compiled: False and True\)"):
        joined_runs([first, compiled])


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"seeds": [1, 2]}, "sampler UIS with seed 1 is in two of the sweeps: leave one of them out"),
        ({"seeds": [2], "store": "/data/other"}, r"different stores \(other and store\)"),
        ({"seeds": [2], "store": "/data/store#2"}, r"different stores \(store and store#2\)"),
        # the last iteration is a setting of these runs too
        ({"seeds": [2], "grid": GRID[:4]}, r"different settings \(iterations: 1100 and 400\) and cannot be joined"),
        ({"seeds": [2], "grid": (*GRID[:3], 1100)}, "validated at different iterations"),
        (
            {"seeds": [2], "metrics": more_ground_truth},
            r"ground truth/Animal: 42 and 43 objects\) and cannot be joined",
        ),
    ],
    ids=["twice", "store", "store with a mark", "settings", "grid", "ground truth"],
)
def test_what_cannot_be_compared_is_not_joined(sweep, first, other, sentence):
    with pytest.raises(InputError, match=sentence):
        joined_runs([first, sweep(**other)])


def test_no_sweep_at_all_is_refused():
    with pytest.raises(InputError, match="there is no sweep to join"):
        joined_runs([])
