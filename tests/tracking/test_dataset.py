"""A crop store as MLflow's dataset: against the store's own rows, through a real store of MLflow."""

import json
from collections import Counter

from isod.data.store.split import CropStore
from isod.tracking.client import Experiment
from isod.tracking.context import run_context
from isod.tracking.dataset import store_input
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
        counted = {name: count for name, count in profile[split]["objects by class"].items() if count}
        counted.pop("dont_care", None)
        assert counted == Counter(names)
        assert profile[split]["objects"] == len(names) == sum(profile[split]["objects by size"].values())
        assert profile[split]["crops"] == len(rows.labels)
    columns = {column["name"] for column in json.loads(seen.dataset.schema)["mlflow_colspec"]}
    assert columns == {"frame_id", "image", "boxes", "labels", "dont_care"}


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
