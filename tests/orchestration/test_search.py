"""A search on real Ray and real MLflow: what is stopped, what is recorded, how it resumes; and that it is no sweep."""

import sys
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from ray.tune.schedulers import TrialScheduler

from isod.cli.main import main
from isod.config.presets import PRESETS
from isod.config.search import Dimension, SearchConfig, SearchStudy
from isod.config.study import read_study
from isod.errors import InputError
from isod.orchestration.search import Search, _replay
from isod.sampling.samplers import SAMPLERS
from isod.tracking.run_reader import read_run
from isod.tracking.search_reader import SearchTrial, read_trials
from isod.tracking.sweep_reader import load_runs

# Under a learning rate of 1e-9 the network stays as it began. One trial at a time: ASHA judges those that come later.
TEXT = """
sampler = "UIS"
preset = "demo"

[search]
{search}

[settings]
{settings}

[training]
iterations = 12
validate_every = 4
batch_size = 8
warmup = 0
ema = 0.0

[detector]
width = 0.125

[resources]
cpus_per_trial = 1.75
"""


@dataclass(frozen=True)
class Stand:
    trial_id: str


@pytest.fixture
def search(ray_local, tiny_store, tmp_path, monkeypatch):
    """Runs `isod search` and gives its exit code and what it printed."""

    def run(*options, **text):
        path = tmp_path / "rates.toml"
        path.write_text(TEXT.format(**text))
        arguments = ["search", str(path), "--store", tiny_store, "--out", str(tmp_path / "out"), *options]
        with (tmp_path / "printed").open("w") as stdout, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)  # Tune pickles it with the progress view
            code = main(arguments)
        return code, (tmp_path / "printed").read_text()

    return run


def recorded(tmp_path):
    """The client, the parent run of the only search, and its trials."""
    uri = f"sqlite:///{tmp_path}/out/mlflow.db"
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(experiments, "tags.`isod.search` = 'rates'")
    return client, parent, read_trials(uri, parent.info.run_id)


def test_asha_stops_what_learns_nothing_and_the_best_becomes_a_sweep(search, tmp_path, capsys):
    code, printed = search("--system-metrics", search='algorithm = "grid"', settings="training.lr = [3e-3, 1e-9, 2e-9]")
    assert code == 0
    client, parent, trials = recorded(tmp_path)
    assert [(trial.name, trial.params["training.lr"], trial.state) for trial in trials] == [
        ("UIS-001-seed0", "0.003", "finished"),
        ("UIS-002-seed0", "1e-09", "stopped"),
        ("UIS-003-seed0", "2e-09", "stopped"),
    ]
    assert [[step for step, _ in trial.curve] for trial in trials] == [[4, 8, 12], [4], [4]]
    assert parent.info.status == "FINISHED"
    runs = client.search_runs([parent.info.experiment_id])
    assert len(runs) == 4
    assert {run.data.tags["isod.kind"] for run in runs} == {"search"}
    assert not any("isod.sweep" in run.data.tags for run in runs)
    assert sorted(run.data.tags.get("isod.stopped", "") for run in runs) == ["", "", "4", "4"]
    measured = {
        run.info.run_name: client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
        for run in runs
        if "sampler" in run.data.params
    }
    assert [point.step for point in measured["UIS-001-seed0"]] == [4, 8, 12]
    assert parent.data.params["search.settings.training.lr"] == "0.003, 1e-09, 2e-09"
    assert "training.lr" not in parent.data.params
    assert parent.data.params["training.iterations"] == "12"

    out = tmp_path / "out"
    table = pd.read_csv(out / "search/trials.csv")
    assert table["trial"].tolist()[0] == "UIS-001-seed0"
    assert table["mAP"].tolist()[0] == trials[0].curve[-1][1]
    assert table["iterations"].tolist() == [12, 4, 4]
    assert "UIS-002-seed0 stopped early: mAP" in printed
    assert "3 trials of UIS (grid, scheduler asha): 2 stopped, 1 finished" in printed
    assert f"isod sweep {out}/search/best.toml --store" in printed
    note = client.get_run(parent.info.run_id).data.tags["mlflow.note.content"]
    assert "search rates: 3 trials" in note
    assert "It compares no samplers." in note
    study = read_study(out / "search/best.toml")
    assert [(a.name, a.value) for a in study.settings if a.name == "training.lr"] == [("training.lr", 0.003)]
    assert {item.path for item in client.list_artifacts(parent.info.run_id, "report")} == {
        "report/best.toml", "report/trials.csv",
    }  # fmt: skip
    (folder,) = (out / "runs").iterdir()
    assert sorted(path.name for path in (folder / "UIS-002-seed0").iterdir()) == ["metrics.csv"]

    uri = f"sqlite:///{out}/mlflow.db"  # it is no comparison, whoever asks
    sentence = f"'rates' ({parent.info.run_id}) is a search, whose runs had different settings and could be stopped"
    for arguments in (
        ["results", "--tracking-uri", uri],
        ["results", "--tracking-uri", uri, "--experiment", "rates-demo"],
        ["results", "--tracking-uri", uri, "--experiment", "rates-demo", "--sweep", parent.info.run_id],
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence in line
    with pytest.raises(InputError, match=r"UIS-002-seed0' has no per-example statistics .* search stopped it early"):
        read_run(uri, "UIS-002-seed0", tmp_path / "run")
    with pytest.raises(InputError, match=r"run 'rates' is a search: choose one of its runs \(UIS-001-seed0, "):
        read_run(uri, "rates", tmp_path / "run")


@pytest.mark.slow
def test_a_resumed_search_draws_on_and_its_scheduler_knows_the_earlier_trials(search, tmp_path, capsys):
    """It draws 3e-3, 1e-9, 1e-9: the latter are stopped because of a trial of the first call alone."""
    text = {"search": "seed = SEED\nsamples = 1", "settings": "training.lr = [3e-3, 1e-9]"}
    seed = next(seed for seed in range(99) if drawn(seed) == [3e-3, 1e-9, 1e-9])
    text["search"] = text["search"].replace("SEED", str(seed))
    assert search(**text)[0] == 0
    code, printed = search("--samples", "3", "--resume", **text)
    assert code == 0
    assert "1 of 3 runs are finished and not run again" in printed
    _, _, trials = recorded(tmp_path)
    assert [trial.state for trial in trials] == ["finished", "stopped", "stopped"]
    capsys.readouterr()
    text["settings"] = "training.lr = [3e-3, 1e-8]"
    assert search("--resume", **text)[0] == 2
    assert "the search 'rates' to resume began with other settings (search.settings.training.lr was" in (
        capsys.readouterr().err
    )


def drawn(seed):
    lr = Dimension(name="training.lr", where="", values=(3e-3, 1e-9))
    study = SearchStudy(name="s", sampler=SAMPLERS["UIS"], dimensions=[lr], search=SearchConfig(samples=3, seed=seed))
    return [point["training.lr"] for point in study.points()]


@pytest.mark.slow
def test_optuna_resumes_the_trial_that_was_interrupted_with_its_settings(search, tmp_path):
    pytest.importorskip("optuna")
    text = {
        "search": 'algorithm = "optuna"\nscheduler = "none"\nsamples = 2',
        "settings": "training.lr = { min = 1e-4, max = 1e-2, log = true }\nsampler.floor = [0.0, 0.5]",
    }
    assert search(**text)[0] == 0
    client, parent, before = recorded(tmp_path)
    first, second = ([trial.params[name] for name in ("training.lr", "sampler.floor")] for trial in before)
    assert first != second
    (run,) = client.search_runs([parent.info.experiment_id], "attributes.run_name = 'UIS-002-seed0'")
    client.set_terminated(run.info.run_id, "KILLED")
    code, printed = search("--samples", "3", "--resume", **text)
    assert code == 0
    assert "1 of 3 runs are finished and not run again" in printed
    _, _, after = recorded(tmp_path)
    assert [trial.number for trial in after] == [1, 2, 3]
    assert {trial.state for trial in after} == {"finished"}
    assert after[0] == before[0]
    assert [after[1].params[name] for name in ("training.lr", "sampler.floor")] == second
    assert after[1].curve == before[1].curve
    assert after[2].params["training.lr"] not in (first[0], second[0])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_demo_data_asha_finds_a_better_learning_rate_than_the_worst(ray_local, tmp_path, monkeypatch):
    """The worst of the range is trained to the end for comparison."""
    path, out = tmp_path / "rates.toml", tmp_path / "out"
    path.write_text(
        'sampler = "UIS"\n[search]\nsamples = 8\n[settings]\ntraining.lr = { min = 1e-5, max = 0.1, log = true }\n'
        "[training]\nwarmup = 0\nema = 0.0\n"
    )
    common = ["--demo-frames", "100", "--iterations", "60", "--validate-every", "10", "--out", str(out)]
    (tmp_path / "worst.toml").write_text('run = ["UIS"]\n[training]\nlr = 1e-5\nwarmup = 0\nema = 0.0\n')
    with (tmp_path / "printed").open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert main(["search", str(path), *common]) == 0
        assert main(["sweep", str(tmp_path / "worst.toml"), "--seeds", "1", *common]) == 0
        monkeypatch.undo()
    _, _, trials = recorded(tmp_path)
    assert sum(trial.state == "stopped" for trial in trials) >= 3
    best = max(trial.curve[-1][1] for trial in trials if trial.state == "finished")
    worst = load_runs(f"sqlite:///{out}/mlflow.db", "worst-demo-store-100-160x48").final("mAP", "UIS")[0]
    assert best > 2 * worst


# --- schedulers, without trials --------------------------------------------------------------------------------------


def made(scheduler, **training):
    lr = Dimension(name="training.lr", where="", low=1e-4, high=1e-2)
    study = SearchStudy(name="s", sampler=SAMPLERS["UIS"], dimensions=[lr], search=SearchConfig(scheduler=scheduler))
    demo = PRESETS["demo"]
    return Search(study, replace(demo, training=replace(demo.training, **training)))._scheduler()


@settings(max_examples=50)
@given(st.sampled_from(["asha", "median"]), st.integers(3, 400), st.integers(1, 60), st.data())
def test_no_trial_is_stopped_at_its_end(scheduler, iterations, validate_every, data):
    """It would lose the model that it is about to save."""
    if max(validate_every, iterations // 9) > (iterations - 1) // validate_every * validate_every:
        return
    made_one = made(scheduler, iterations=iterations, validate_every=validate_every)
    steps = [*range(validate_every, iterations, validate_every), iterations]
    for number in range(data.draw(st.integers(1, 8))):
        trial = Stand(str(number))
        made_one.on_trial_add(None, trial)
        for step in steps:
            result = {"iteration": step, "mAP": data.draw(st.sampled_from([0.0, 0.1, 0.5, float("nan")]))}
            decision = made_one.on_trial_result(None, trial, result)
            assert decision in (TrialScheduler.CONTINUE, TrialScheduler.STOP)
            assert step < iterations or decision == TrialScheduler.CONTINUE
            if decision == TrialScheduler.STOP:
                break
        made_one.on_trial_complete(None, trial, result)


@pytest.mark.parametrize(("scheduler", "earlier"), [("asha", 1), ("median", 3)])
def test_earlier_trials_count(scheduler, earlier):
    """One better trial is enough for ASHA to stop a worse one, three for the median rule; none stops anything."""
    for known, expected in ((0, TrialScheduler.CONTINUE), (earlier, TrialScheduler.STOP)):
        one = made(scheduler, iterations=300, validate_every=25)
        for number in range(known):
            curve = tuple((step, 0.5) for step in range(25, 301, 25))
            _replay(one, SearchTrial(f"UIS-{number:03}-seed0", {}, "finished", curve))
        trial = Stand("new")
        one.on_trial_add(None, trial)
        assert one.on_trial_result(None, trial, {"iteration": 50, "mAP": 0.1}) == expected


# --- Optuna, without trials ------------------------------------------------------------------------------------------


def test_optuna_gives_interrupted_trials_their_settings_again_and_learns_from_those_that_ended():
    pytest.importorskip("optuna")
    from isod.orchestration.optuna_runs import OptunaRuns

    lr = Dimension(name="training.lr", where="", low=1e-5, high=1e-1, log=True)
    blocks = Dimension(name="detector.blocks", where="", values=((1, 1, 1, 1), (2, 1, 1, 1)))
    config = SearchConfig(algorithm="optuna", samples=20)
    study = SearchStudy(name="s", sampler=SAMPLERS["UIS"], dimensions=[lr, blocks], search=config)

    def trial(number, lr, blocks, state, ap=None):
        params = {"training.lr": str(lr), "detector.blocks": str(blocks)}
        return SearchTrial(f"UIS-{number:03}-seed0", params, state, () if ap is None else ((25, ap),))

    # the nearer to 1e-3, the better
    ended = [
        trial(number, 10.0**exponent, (1, 1, 1, 1), "finished", 1 - abs(exponent + 3) / 4)
        for number, exponent in enumerate((-5, -4.5, -4, -3.4, -3.2, -3, -2.8, -2.5, -2, -1.5, -1), 1)
    ]
    pending = [trial(15, 0.0125, (2, 1, 1, 1), "not finished"), SearchTrial("UIS-016-seed0", {}, "failed", ())]
    made_one = OptunaRuns(study, PRESETS["demo"], pending, ended)
    runs = [made_one.suggest(str(number))["run"] for number in range(9)]
    assert [run.sampler.name for run in runs[:4]] == ["UIS-015", "UIS-012", "UIS-013", "UIS-014"]
    assert [run.sampler.name for run in runs[4:6]] == ["UIS-016", "UIS-017"]
    assert (runs[0].training.lr, runs[0].detector.blocks) == (0.0125, (2, 1, 1, 1))
    assert all(1e-5 <= run.training.lr <= 1e-1 for run in runs)
    assert (made_one._ot_study.best_value, made_one._ot_study.best_params["training.lr"]) == (1.0, 1e-3)
    made_one.on_trial_complete("1", {"mAP": 0.5, "failed": "the disk is full", "training_iteration": 1})
    asked = made_one._ot_trials["1"].number
    assert made_one._ot_study.trials[asked].state.name == "FAIL"
