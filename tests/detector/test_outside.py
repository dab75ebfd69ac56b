"""A detector of somebody else's package, from the command line to the saved model, and resumed."""

import pandas as pd
import pytest
import torch

from isod.cli.main import main
from isod.detector.saved import load_model
from tests.training.tiny_run import UNTIMED, weights_of

OUTSIDE = "tests.detector.outside"


def train(store, out, detector, *more):
    arguments = ["train", store, "--out", out, "--preset", "demo", "--iterations", "12", "--batch-size", "8"]
    arguments += ["--validate-every", "6", "--set", f"detector.name={OUTSIDE}:{detector}", *more]
    return main([str(argument) for argument in arguments])


def test_it_trains_is_saved_and_comes_back(tiny_store, tmp_path):
    assert train(tiny_store, tmp_path / "run", "build", "--sampler", "LIS", "--set", "training.lr=0.01") == 0
    rows = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert rows["iteration"].tolist() == [6, 12]
    assert rows["train/loss"].iloc[1] < rows["train/loss"].iloc[0]
    model, description = load_model(tmp_path / "run" / "model")
    assert type(model).__name__ == "TinyDetector"
    assert description.detector.name == f"{OUTSIDE}:build"
    (found,) = model.detect(torch.zeros(1, 3, 48, 160, dtype=torch.uint8))
    assert found["boxes"].tolist() == [[0, 0, 160, 48]]


def test_the_same_seed_gives_the_same(tiny_store, tmp_path):
    for name in ("one", "other"):
        assert train(tiny_store, tmp_path / name, "build", "--sampler", "LIS") == 0
    one, other = (pd.read_csv(tmp_path / name / "metrics.csv").drop(columns=UNTIMED) for name in ("one", "other"))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    torch.testing.assert_close(weights_of(tmp_path / "one"), weights_of(tmp_path / "other"), rtol=0, atol=0)


def test_one_loss_per_image_is_enough_for_lis(tiny_store, tmp_path, capfd):
    assert train(tiny_store, tmp_path / "lis", "build_per_image", "--sampler", "LIS") == 0
    assert train(tiny_store, tmp_path / "uis", "build_per_image", "--sampler", "UIS") == 2
    assert f"isod: detector '{OUTSIDE}:build_per_image' gives no iou, which heuristic 'uncertainty' needs" in (
        capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--loss-normalisation", "object"],
            "TinyDetector has no choice of loss_normalisation: leave it at",
        ),
        (["--set", f"detector.name={OUTSIDE}:nothing"], f"detector '{OUTSIDE}:nothing' cannot be imported"),
        (["--set", "detector.name=thesys"], "unknown detector 'thesys'; did you mean 'thesis'?"),
        (["--set", f"detector.name={OUTSIDE}:build_nothing"], f"'{OUTSIDE}:build_nothing' cannot be built (ZeroDivisi"),
        (["--set", "detector.name=half_written:build"], "cannot be imported (name 'unfinished' is not defined)"),
        (["--set", "detector.weights=other.pt"], "nothing of detector.weights other.pt fits a TinyDetector"),
    ],
)
def test_what_it_cannot_do_is_a_sentence(tiny_store, tmp_path, monkeypatch, capfd, more, message):
    (tmp_path / "half_written.py").write_text("build = unfinished\n")
    torch.save({"layer9.weight": torch.ones(3)}, tmp_path / "other.pt")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert train(tiny_store, tmp_path / "run", "build", "--sampler", "LIS", *more) == 2
    said = capfd.readouterr().err
    assert message in said
    assert said.count("\n") == 1
