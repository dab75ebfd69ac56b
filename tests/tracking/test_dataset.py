"""A crop store as MLflow's dataset: against the store's own rows, through a real store of MLflow."""

import json
from collections import Counter
from dataclasses import replace

from isod.data.prepare.job import prepare_demo
from isod.data.store.split import CropStore
from isod.tracking.client import Experiment
from isod.tracking.context import run_context
from isod.tracking.dataset import _digest, store_input
from isod.tracking.sweep_writer import SweepWriter, begin_sweep
from isod.version import source_commit
from tests.tracking.mlflow_store import Store
from tests.training.tiny_run import tiny_run


def test_parent_and_child_have_the_dataset(tiny_store, tmp_path):
    mlflow = Store(tmp_path)
    experiment = Experiment(mlflow.uri, mlflow.client, mlflow.experiment_id)
    crops = CropStore.open(tiny_store)
    record = begin_sweep(experiment, "grid", {}, run_context(), store_input(crops))
    writer = SweepWriter(experiment, record, params={}, tags={}, dataset=store_input(crops))
    writer.trial_started("UIS-seed0", tiny_run())
    writer.trial_started("UIS-seed0", tiny_run())
    assert writer.close("FINISHED", patience=30) == ""
    parent, child = (mlflow.client.get_run(run) for run in (record.parent_run_id, record.runs["UIS-seed0"]))
    (seen,), (same,) = parent.inputs.dataset_inputs, child.inputs.dataset_inputs
    assert seen.dataset.to_dictionary() == same.dataset.to_dictionary()
    assert [(tag.key, tag.value) for tag in seen.tags] == [("mlflow.data.context", "training")]
    assert seen.dataset.name == tiny_store.rpartition("/")[2]
    assert json.loads(seen.dataset.source) == {"uri": tiny_store}
    profile = json.loads(seen.dataset.profile)
    assert (profile["crop width"], profile["crop height"]) == (160, 48)
    for split in ("train", "val"):
        rows = crops.split(split).annotations()
        names = [crops.meta.class_names[label - 1]
                 for labels, ignored in zip(rows.labels, rows.dont_care, strict=True)
                 for label in labels[~ignored]]  # fmt: skip
        counted = {name: profile[f"{split} objects, {name}"] for name in crops.meta.class_names}
        assert {name: count for name, count in counted.items() if count} == Counter(names)
        sizes = sum(profile[f"{split} {size} objects"] for size in ("small", "medium", "large"))
        assert profile[f"{split} objects"] == len(names) == sizes
        assert profile[f"{split} crops"] == len(rows.labels)
    columns = {column["name"] for column in json.loads(seen.dataset.schema)["mlflow_colspec"]}
    assert columns == {"frame_id", "image", "boxes", "labels", "dont_care"}


def test_the_same_images_prepared_again_have_the_same_digest(demo_root, tiny_store, tmp_path):
    """Though their files have other names. A file of other bytes has another one."""
    again = str(tmp_path / "again")
    prepare_demo(demo_root, again, resize=(160, 48), map_chunks=map)
    one, other = (CropStore.open(store).meta for store in (tiny_store, again))
    assert one.checksums["train"].keys() != other.checksums["train"].keys()
    assert _digest(one) == _digest(other)
    train = {file: [size, checksum + 1] for file, (size, checksum) in one.checksums["train"].items()}
    assert _digest(replace(one, checksums={**one.checksums, "train": train})) != _digest(one)


def test_another_store_has_another_digest(tiny_store):
    meta = CropStore.open(tiny_store).meta
    counts = json.loads(json.dumps(meta.counts))
    next(iter(counts["train"].values()))["small"] += 1
    changed = CropStore(tiny_store, type(meta)(**{**vars(meta), "counts": counts}))
    one, other = (store_input(store).dataset.digest for store in (CropStore.open(tiny_store), changed))
    assert one != other
    assert len(one) <= 36  # what MLflow takes


def test_a_run_says_who_began_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/isod", "sweep", "--experiment", "two words"])
    tags = run_context()
    assert tags["mlflow.source.name"] == "isod sweep --experiment 'two words'"
    assert tags.get("mlflow.source.git.commit", "") in source_commit()
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(KeyError("uid not found")))
    assert "mlflow.user" not in run_context()
