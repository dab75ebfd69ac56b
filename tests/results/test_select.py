"""isod select: choices by hand, files read back by isod's own readers, and a run on the kept crops alone."""

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from PIL import Image

from isod.cli.main import main
from isod.data.readers.coco import CocoFile
from isod.data.readers.yolo import YoloReader
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.results.select.choose import floor_of, keep_centres, keep_count, keep_first, mean_rank, order_by
from isod.sampling.priors import Labels
from isod.sampling.table import INELIGIBLE
from tests.results.made_store import scene, write_store
from tests.training.tiny_run import run_here, tiny_run

NAMES = ("car", "bike")
LABELS = Labels.from_lists([[1], [1, 2], [1], [], [2], [1]], 2)  # car in 0, 1, 2, 5; bike in 1, 4
ORDER = np.array([3, 2, 5, 0, 4, 1])


# --- choices ---------------------------------------------------------------------------------------------------------


def test_counts_by_hand():
    assert [keep_count(share, 10) for share in (0.3, 0.34, 0.01, 1)] == [3, 3, 1, 10]
    scores = np.array([0.5, np.nan, 2.0, 2.0, 1.0])
    assert order_by(scores, np.array([0, 1, 2, 3])).tolist() == [2, 3, 0, 1]  # 4 is not readable


def test_the_floor_by_hand():
    assert floor_of(ORDER, LABELS, 1) == [4, 2]  # of bike, the rarer, 4 comes first; then a car
    assert floor_of(ORDER, LABELS, 2) == [4, 1, 2]  # 1 is a car, too: one more is missing
    assert sorted(floor_of(ORDER, LABELS, 9)) == [0, 1, 2, 4, 5]  # all that there are
    assert floor_of(np.array([3, 0]), LABELS, 1) == [0]  # no bike among them
    assert keep_first(ORDER, 3, LABELS, 0).tolist() == [2, 3, 5]
    assert keep_first(ORDER, 3, LABELS, 1).tolist() == [2, 3, 4]
    with pytest.raises(InputError, match=r"--min-per-class 2 needs 3 crops, more than the 2 .* keep at least 0.5"):
        keep_first(ORDER, 2, LABELS, 2)


@given(st.permutations(range(6)), st.integers(0, 3), st.integers(1, 6))
def test_a_choice_has_its_size_and_its_floor(order, least, count):
    order = np.array(order)
    try:
        kept = keep_first(order, count, LABELS, least)
    except InputError:
        assert len(floor_of(order, LABELS, least)) > count
        return
    assert len(kept) == count == len(set(kept.tolist()))
    for cropset in ({0, 1, 2, 5}, {1, 4}):
        assert len(cropset & set(kept.tolist())) >= min(least, len(cropset))


def test_centres_by_hand():
    features = np.array([[0.0], [1], [2], [10], [5], [6]], np.float32)  # of crops 3, 2, 5, 0, 4, 1
    assert keep_centres(features, ORDER, 2, LABELS, 0).tolist() == [0, 3]
    # the floor is 4 at 5 and 2 at 1: of the others 10, crop 0, is the farthest from both
    assert keep_centres(features, ORDER, 3, LABELS, 1).tolist() == [0, 2, 4]


def test_ranks_of_runs_by_hand():
    """In run a the third example was held out: its mean of 0 is no score, and the others' are below it (RHO)."""
    runs = [
        pd.DataFrame({"x": [-5.0, -1.0, 0.0], "last_step": [7, 9, -2]}),
        pd.DataFrame({"x": [30.0, 20.0, 10.0], "last_step": [0, 1, 2]}),
    ]
    assert mean_rank(runs, "x", ["a", "b"]).tolist() == pytest.approx([(2 + 3) / 6, (3 + 2) / 6, (1 + 1) / 6])
    with pytest.raises(InputError, match="run b has the same x for every example"):
        mean_rank([runs[0], pd.DataFrame({"x": [0.0] * 3, "last_step": [0, 0, -2]})], "x", ["a", "b"])  # the last: lost


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Four frames of two tiles, and objects in three of the crops."""
    objects = {0: [(1, 5, 5, 20, 25)], 3: [(2, 10, 10, 30, 30.5), (1, 1, 2, 3, 9)], 6: [(0, 0, 0, 9, 9)]}
    crops = [(f"day/{n // 2}.png", scene(n), objects.get(n, [])) for n in range(8)]
    return write_store(tmp_path_factory.mktemp("made") / "store", crops, crops[:2], NAMES, tiles=(2, 1))


def test_what_is_written_is_what_isods_readers_read(made, tmp_path, capsys):
    out = tmp_path / "keep"
    arguments = ["select", made, "--keep", "0.75", "--by", "random", "--min-per-class", "5", "--images"]
    assert main([*arguments, "--out", str(out)]) == 0
    assert "6 of 8 training crops kept by random" in capsys.readouterr().out
    with (out / "keep.csv").open() as file:
        rows = list(csv.DictReader(file))
    kept = [int(row["index"]) for row in rows]
    assert {0, 3} < set(kept)
    assert [(row["frame_id"], row["tile_column"]) for row in rows] == [(f"day/{n // 2}.png", f"{n % 2}") for n in kept]
    assert (out / "keep.txt").read_text().splitlines() == list(dict.fromkeys(f"day/{n // 2}.png" for n in kept))
    split = CropStore.open(made).split("train")
    truth = split.annotations()

    content = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == [f"day/{n // 2}-tile-{n % 2}-0.jpg" for n in kept]
    frames = CocoFile(out / "images", out / "coco.json").frames({"car": 1, "bike": 2})
    for index, frame in zip(kept, frames, strict=True):
        found = frame.objects()
        known = ~found.dont_care
        assert sorted(found.labels[known].tolist()) == sorted(truth.labels[index][~truth.dont_care[index]].tolist())
        assert np.sort(found.boxes[known], 0) == pytest.approx(
            np.sort(truth.boxes[index][~truth.dont_care[index]], 0), abs=1e-3
        )
        with Image.open(out / "images" / frame.frame_id) as image:
            assert image.size == (64, 48)
        assert (out / "images" / frame.frame_id).read_bytes() == split.read_encoded([index])[0]

    assert (out / "labels/day/0-tile-0-0.txt").read_text() == "0 0.195312 0.312500 0.234375 0.416667\n"
    yolo = YoloReader(out / "data.yaml")
    assert yolo.class_names == NAMES
    assert len(yolo.frames("train")) == 6
    assert main([*arguments, "--out", str(out)]) == 2
    assert "holds a keep-list: choose another --out" in capsys.readouterr().err


# --- runs and models -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_store, tmp_path_factory):
    return run_here(tiny_run(), tiny_store, tmp_path_factory.mktemp("trained"))


def kept_by(store, out, *arguments):
    assert main(["select", store, "--keep", "0.25", "--out", str(out), *map(str, arguments)]) == 0
    with (out / "keep.csv").open() as file:
        return [int(row["index"]) for row in csv.DictReader(file)]


def test_by_the_scores_of_a_run_and_a_run_on_these_alone(trained, tiny_store, tmp_path):
    kept = kept_by(tiny_store, tmp_path / "keep", "--by", "importance", "--run", trained)
    statistics = pd.read_parquet(trained / "examples.parquet")
    assert sorted(statistics.nlargest(16, "mean_importance")["index"]) == kept

    config = tiny_run()
    config = replace(config, sampler=replace(config.sampler, subset=str(tmp_path / "keep/keep.csv")))
    run_here(config, tiny_store, tmp_path / "run")
    after = pd.read_parquet(tmp_path / "run/examples.parquet")
    assert np.flatnonzero(after["draw_count"]).tolist() == kept
    assert (after["last_step"].to_numpy() == INELIGIBLE).sum() == 48


def test_by_a_run_in_mlflow(trained, tiny_store, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("grid", artifact_location=str(tmp_path / "artifacts"))
    run_id = client.create_run(experiment, run_name="UIS-seed0").info.run_id
    client.log_artifact(run_id, str(trained / "examples.parquet"))
    client.set_terminated(run_id)
    kept = kept_by(tiny_store, tmp_path / "keep", "--by", "draws", "--run", "UIS-seed0", "--tracking-uri", uri)
    statistics = pd.read_parquet(trained / "examples.parquet")
    assert sorted(statistics.nlargest(16, "draw_count")["index"]) == kept  # of equals the first


def test_by_a_model(trained, tiny_store, tmp_path):
    model = trained / "model"
    by_loss = kept_by(tiny_store, tmp_path / "loss", "--by", "loss", "--model", model)
    far = kept_by(tiny_store, tmp_path / "far", "--by", "k-centre", "--model", model)
    again = kept_by(tiny_store, tmp_path / "again", "--by", "k-centre", "--model", model)
    assert len(by_loss) == len(far) == 16
    assert far == again != by_loss


def test_bad_input_is_one_sentence(trained, tiny_store, made, tmp_path, capsys):
    def sentence(*arguments, store=tiny_store, keep="0.5"):
        assert main(["select", store, "--keep", keep, "--out", str(tmp_path / "o"), *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "--keep must be in (0, 1], got 0.0" in sentence("--by", "random", keep="0")
    assert "unknown --by 'k-center'; did you mean 'k-centre'?" in sentence("--by", "k-center")
    assert "--by importance needs --run" in sentence("--by", "importance")
    assert "--by loss needs --model" in sentence("--by", "loss")
    for by, *others in (
        ("random", "--run", trained), ("random", "--device", "cpu"), ("draws", "--run", trained, "--seed", "0"),
        ("k-centre", "--model", trained / "model", "--reduction", "max"),
        ("loss", "--model", trained / "model", "--tracking-uri", "sqlite:///no.db"),
    ):  # fmt: skip
        assert f"{others[-2]} says nothing to --by {by}: choose another --by, or leave it out" in sentence(
            "--by", by, *others
        )
    assert "has no examples.parquet" in sentence("--by", "draws", "--run", tmp_path)
    assert "trained on other data" in sentence("--by", "draws", "--run", trained, store=made)
    assert "knows the classes" in sentence("--by", "loss", "--model", trained / "model", store=made)
    assert main(["select", made, "--keep", "1", "--by", "random", "--out", str(tmp_path / "all")]) == 0
    train = ["train", tiny_store, "--out", str(tmp_path / "run"), "--preset", "demo", "--set"]
    for value, message in (
        (tmp_path / "all/keep.csv", "is of another store"),
        (tmp_path / "nothing.csv", "cannot be read"),
        (tmp_path / "all/coco.json", "is no keep-list"),
    ):
        capsys.readouterr()
        assert main([*train, f"sampler.subset={value}"]) == 2
        assert message in capsys.readouterr().err
