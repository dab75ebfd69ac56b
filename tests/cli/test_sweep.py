"""The study scripts: what they run by default, and each of them small, on real Ray and MLflow."""

import itertools
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from mlflow import MlflowClient

from isod.cli.options import RUN_FLAGS, SWEEP_FLAGS
from isod.cli.sweep import build_parser, main
from isod.config.study import Study
from isod.errors import InputError
from isod.orchestration.sweep import SweepResult
from isod.sampling.samplers import SAMPLERS, THESIS_SAMPLERS

SWEEPS = Path(__file__).parents[2] / "sweeps"
SMALL = ["--seeds", "1", "--preset", "demo", "--iterations", "3", "--batch-size", "8", "--width", "0.125",
         "--validate-every", "3"]  # fmt: skip


def script(name: str) -> Study:
    return runpy.run_path(str(SWEEPS / f"{name}.py"))["STUDY"]


def names(study: Study) -> list[str]:
    return [sampler.name for sampler in study.samplers]


def test_together_they_run_every_sampler_there_is():
    assert names(script("thesis_grid")) == list(THESIS_SAMPLERS)
    assert set(names(script("related_work"))) | set(THESIS_SAMPLERS) == set(SAMPLERS)
    for name in ("thesis_grid", "related_work", "ablations", "real_traffic", "real_tiles"):
        assert script(name).name == name
        assert "baseline" in names(script(name))


def test_every_ablation_is_its_base_but_for_what_its_name_says():
    study = script("ablations")
    chosen = {sampler.name: sampler for sampler in study.samplers}
    uis = SAMPLERS["UIS"]
    assert chosen["UIS-max"] == replace(uis, name="UIS-max", reduction="max")
    assert chosen["LIS-area"] == replace(SAMPLERS["LIS"], name="LIS-area", reduction="area_mean")
    assert chosen["UIS-floor-0.1"] == replace(uis, name="UIS-floor-0.1", floor=0.1)
    assert chosen["UIS-box-only"] == replace(uis, name="UIS-box-only", class_weight=0.0)
    assert chosen["UIS-lag-16"] == replace(uis, name="UIS-lag-16")
    assert study.training["UIS-lag-16"] == {"lag": 16}
    assert study.training["baseline-object-loss"] == {"loss_normalisation": "object"}
    different = {(replace(s, name=""), str(study.training.get(s.name))) for s in study.samplers}
    assert len(different) == len(study.samplers)


def test_controls_of_the_real_images_run_where_they_are_named():
    study = script("real_traffic")
    assert [sampler.name for sampler in study.choose(None)] == ["baseline", "LIS", "UIS", "UIS-IR"]
    (control,) = study.choose(["UIS-cosine-half"])
    assert control == replace(SAMPLERS["UIS"], name="UIS-cosine-half")
    assert study.training["UIS-cosine-half"] == {"lr_schedule": "cosine", "lr_decayed_at": 0.5}
    assert study.training["baseline-object-loss"] == {"loss_normalisation": "object"}


def test_a_stage_is_a_command_line():
    """Its samplers are the study's; what stands after it wins."""
    tiles = runpy.run_path(str(SWEEPS / "real_tiles.py"))
    for number in "01235":
        words = tiles["with_stage"](["--stage", number, "--iterations", "7", "--resume"])
        options = build_parser(tiles["STUDY"], None).parse_args(words)
        assert options.samplers[0] == "baseline"
        assert len(tiles["STUDY"].choose(options.samplers)) == len(options.samplers)
        assert options.resume
        assert options.assignments[-1].value == "7"
    stage = build_parser(tiles["STUDY"], None).parse_args(tiles["with_stage"](["--stage", "3"]))
    assert (stage.first_seed, stage.seeds) == (2, 5)  # as nothing was chosen on them
    last = build_parser(tiles["STUDY"], None).parse_args(tiles["with_stage"](["--stage", "5"]))
    assert (last.first_seed, last.seeds) == (2, 5)
    settings = {assignment.name: assignment.value for assignment in last.assignments}
    assert settings["training.lr_schedule"] == "cosine"
    assert settings["training.iterations"] == "3000"
    decayed = [tiles["STUDY"].training.get(name, {}).get("lr_decayed_at", 1) * 3000 for name in last.samplers]
    assert decayed == pytest.approx([3000, 2300, 2300])
    assert tiles["with_stage"](["--out", "there"]) == ["--out", "there"]


def test_a_name_means_the_same_in_every_study():
    studies = [script(name) for name in ("ablations", "real_traffic", "real_tiles")]
    for one, other in itertools.combinations(studies, 2):
        here, there = ({s.name: s for s in (*study.samplers, *study.extra)} for study in (one, other))
        shared = here.keys() & there.keys()
        assert {"LIS-max", "UIS-object-loss"} <= shared
        for name in shared:
            assert here[name] == there[name]
            assert one.training.get(name) == other.training.get(name)


@pytest.mark.parametrize("present", [[], ["images"], ["images", "train.json"]])
def test_real_images_that_are_not_there_are_rejected_before_anything_starts(tmp_path, capsys, present):
    images = tmp_path / "traffic"
    for name in present:
        (images / name).mkdir(parents=True)
    arguments = ["--images", str(images), "--out", str(tmp_path / "out")]
    with mock.patch("isod.orchestration.cluster.connect", side_effect=AssertionError("Ray was started")):
        assert main(script("real_traffic"), None, arguments, store_from_images=lambda *_: "") == 2
        error = capsys.readouterr().err
        absent = [name for name in ("images", "train.json", "val.json") if name not in present]
        assert f"--images {images} has no {' and no '.join(absent)}: name a folder with all three" in error
        assert main(script("real_traffic"), None, arguments[2:], store_from_images=lambda *_: "") == 2
        assert "name a folder with images, train.json, val.json as --images, or a crop store as --store" in (
            capsys.readouterr().err
        )
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_missed_before_anything_starts(tmp_path, capsys):
    with (
        mock.patch("isod.orchestration.cluster.connect", side_effect=AssertionError("Ray was started")),
        mock.patch("torch.cuda.device_count", return_value=0),
        mock.patch("ray.is_initialized", return_value=False),
    ):
        assert main(script("thesis_grid"), None, ["--preset", "thesis", "--out", str(tmp_path / "out")]) == 2
    assert "a trial needs 1 GPU and there are 0: set --gpus-per-trial 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_are_unique_and_mean_one_thing():
    uis = SAMPLERS["UIS"]
    with pytest.raises(ValueError, match="names repeated"):
        Study(name="s", samplers=[uis, uis])
    with pytest.raises(ValueError, match="'UIS' is the name of another sampler"):
        Study(name="s", samplers=[replace(uis, floor=0.5)])
    with pytest.raises(ValueError, match="settings for others"):
        Study(name="s", samplers=[uis], training={"LIS": {"lag": 0}})


def test_samplers_are_chosen_by_name():
    study = script("ablations")
    assert [s.name for s in study.choose(["EL2N", "UIS-max"])] == ["EL2N", "UIS-max"]
    with pytest.raises(
        InputError, match=r"unknown sampler 'UIS-min'; did you mean 'UIS-\w+'\? choose one of baseline, .*UIS-max"
    ):
        study.choose(["UIS-min"])
    with pytest.raises(InputError, match="name each sampler once"):
        study.choose(["UIS", "UIS"])


def test_options_of_the_thesis_grid():
    parser = build_parser(script("thesis_grid"), None)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert flags == {
        "-h", "--help", "-q", "--quiet", "--store", "--demo-frames", "--preset", "--samplers", "--seeds",
        "--first-seed", "--tracking-uri", "--experiment", "--system-metrics", "--address", "--resume", "--out", "--set",
        "--storage", "--dashboard", "--no-compiled", "--no-decode-on-device", *SWEEP_FLAGS,
    }  # fmt: skip
    assert RUN_FLAGS.items() < SWEEP_FLAGS.items()
    with_images = build_parser(script("real_traffic"), None, store_from_images=lambda *_: "").parse_args([])
    assert vars(parser.parse_args([])).keys() ^ vars(with_images).keys() == {"demo_frames", "images"}


@pytest.mark.parametrize(("failed", "unfinished"), [({}, 4), ({"UIS-seed0": "the disk is full"}, 3)])
def test_a_sweep_in_which_nothing_has_finished_ends_without_a_table(tiny_store, tmp_path, capsys, failed, unfinished):
    """Interrupted, say: what it says is that, and not that there is no finished run."""
    ended = SweepResult("parent", 0, failed, unfinished, "")
    arguments = ["--store", tiny_store, "--preset", "demo", "--samplers", "baseline", "UIS", "--seeds", "2"]
    with mock.patch("isod.orchestration.sweep.run_sweep", return_value=ended):
        assert main(script("thesis_grid"), None, [*arguments, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"{unfinished} runs were not finished: repeat the command with --resume to finish them"
    assert len(said) == 1 + len(failed)


def test_demo_frames_are_of_no_store(capsys):
    with pytest.raises(SystemExit) as refusal:
        main(script("thesis_grid"), None, ["--store", "some.store", "--demo-frames", "1000"])
    assert refusal.value.code == 2
    assert "--demo-frames: not allowed with argument --store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "samplers"),
    [
        pytest.param("related_work", ["baseline", "loss-rank"], marks=pytest.mark.slow),
        pytest.param("ablations", ["UIS-lag-16", "LIS-object-loss"], marks=pytest.mark.slow),
    ],
)
def test_each_runs(ray_local, tiny_store, tmp_path, monkeypatch, name, samplers):
    out = str(tmp_path / "out")
    with (tmp_path / "printed").open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)  # Tune pickles it with the progress view: pytest's own will not do
        assert main(script(name), None, ["--store", tiny_store, "--out", out, "--samplers", *samplers, *SMALL]) == 0
        monkeypatch.undo()
    printed = (tmp_path / "printed").read_text()
    assert "2 samplers × 1 seeds, 3 iterations each" in printed
    assert (tmp_path / "out/report/report.html").exists()
    client = MlflowClient(f"sqlite:///{out}/mlflow.db")
    experiment = client.get_experiment_by_name(f"{name.replace('_', '-')}-demo")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.data.tags["isod.sweep"] for run in runs if "isod.sweep" in run.data.tags] == [name]
    params = {run.data.params["sampler"]: run.data.params for run in runs if "sampler" in run.data.params}
    assert sorted(params) == sorted(samplers)
    if name == "ablations":
        assert params["UIS-lag-16"]["training.lag"] == "16"
        assert params["UIS-lag-16"]["training.loss_normalisation"] == "location"
        assert params["LIS-object-loss"]["training.lag"] == "2"
        assert params["LIS-object-loss"]["training.loss_normalisation"] == "object"
