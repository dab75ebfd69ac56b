"""isod triage on a real MLflow store, a real crop store, a really trained model and a real browser."""

import base64
import csv
import html
import io
import json
import os
import re
import shutil
import socket
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import torch
from mlflow.entities import Param
from mlflow.tracking import MlflowClient
from PIL import Image

from isod.cli.main import main
from isod.config.record import flatten
from isod.data.faults import Fault, faults_to_json
from isod.data.objects import Annotation
from isod.data.store.address import write_text
from isod.data.store.meta import FAULTS_FILE, StoreMeta
from isod.data.store.split import CropStore
from isod.data.store.writer import Row, commit, write_fragment
from isod.detector.saved import describe_model
from isod.detector.thesis.model import build
from isod.errors import InputError
from isod.files import folder_lock
from isod.inference.marks import Mark, place_words
from isod.results.triage.command import triage_command
from tests.training.tiny_run import DETECTOR, run_here, tiny_run, weights_of

NAMES = ("car", "<b>bike</b>")
FRAMES = ('"><script>alert(1)</script>', "=1+1", "frame2", "frame3", "frame4", "lost")
DRAWS = (7, 9, 0, 9, 2, 0)
IMPORTANCE = (0.5, 1.25, 0.0, 3.0, float("nan"), 0.0)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory):
    return Tracking(tmp_path_factory.mktemp("mlflow"))


class Tracking:
    """A sqlite store, and runs in it as SweepWriter writes them."""

    def __init__(self, folder):
        self.folder = folder
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.client = MlflowClient(self.uri)
        self.experiments = {}

    def run(self, name, params, artifacts=(), *, experiment="grid", status="FINISHED", tags=None):
        if experiment not in self.experiments:
            place = str(self.folder / experiment)
            self.experiments[experiment] = self.client.create_experiment(experiment, artifact_location=place)
        run_id = self.client.create_run(self.experiments[experiment], tags=tags, run_name=name).info.run_id
        self.client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        for path in map(Path, artifacts):
            if path.is_dir():
                self.client.log_artifacts(run_id, str(path), path.name)
            else:
                self.client.log_artifact(run_id, str(path))
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id


@pytest.fixture(scope="module")
def trained(tiny_store, mlflow, tmp_path_factory):
    """A UIS run of forty iterations on the tiny store, in MLflow; its folder."""
    out = tmp_path_factory.mktemp("trained")
    config = tiny_run()
    run_here(config, tiny_store, out)
    mlflow.run("UIS-seed0", {"store": tiny_store, **flatten(config)}, [out / "examples.parquet", out / "model"])
    return out


@pytest.fixture(scope="module")
def sheet(trained, tiny_store, mlflow, tmp_path_factory):
    """The folder of the sheet of all 64 crops."""
    out = tmp_path_factory.mktemp("sheet")
    triage_command(mlflow.uri, "UIS-seed0", tiny_store, out)
    return out


@pytest.fixture(scope="module")
def odd_store(tmp_path_factory):
    """Six crops of 48×32 with hostile names; the third is never drawn, the fourth is damaged, the last is lost."""
    uri = str(tmp_path_factory.mktemp("odd") / "store")
    rng = np.random.default_rng(0)
    rows = []
    for i, frame in enumerate(FRAMES):
        jpeg = simplejpeg.encode_jpeg(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8))
        objects = Annotation.build([[4, 6, 20, 26], [30, 0, 48, 32]], [2, 0], [False, True])
        if frame == "lost":
            rows.append(Row(i, frame, None, "gone", Annotation.build([], [], []), (0, 0)))
        else:
            rows.append(Row(i, frame, jpeg[: len(jpeg) // 3] if i == 3 else jpeg, None, objects, (32, 48)))
    commit(uri, "train", [write_fragment(uri, "train", rows)])
    commit(uri, "val", [write_fragment(uri, "val", rows[:1])])
    faults = [
        Fault(1, "wrong_class", (4, 6, 20, 26), "car", NAMES[1]),
        Fault(2, "missing_box", (0, 0, 5, 5), "car", None),
    ]
    write_text(uri, FAULTS_FILE, faults_to_json({"train": faults, "val": []}))
    meta = StoreMeta(
        class_names=NAMES, crop_size=(32, 48), source="zod", demo=True, settings={},
        rows={"train": 6, "val": 1}, lost={"train": {5: "gone"}, "val": {}}, counts={},
    )  # fmt: skip
    write_text(uri, "store.json", meta.to_json())
    return uri


@pytest.fixture(scope="module")
def odd_run(mlflow, tmp_path_factory):
    """A run without a model on the odd store, with hand-made statistics and no margin column; its parquet file."""
    path = tmp_path_factory.mktemp("statistics") / "examples.parquet"
    columns = {
        "index": range(6),
        "frame_id": FRAMES,
        "draw_count": DRAWS,
        "mean_importance": IMPORTANCE,
        "last_step": 0,
    }
    pd.DataFrame(columns).to_parquet(path, index=False)
    mlflow.run("odd & <i>run</i>", {"store": "elsewhere/moved"}, [path])
    return path


class Page(HTMLParser):
    """The cards of a page: their data-… attributes, what they say, and the boxes drawn on them."""

    def __init__(self, path):
        super().__init__()
        self.cards, self.tags, self.addresses = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[key] for key in ("src", "href") if key in attributes]
        if tag == "article":
            data = {key.removeprefix("data-"): value for key, value in attributes.items()}
            self.cards.append({**data, "text": "", "boxes": [], "src": None})
        elif self.cards and tag == "img":
            self.cards[-1]["src"] = attributes["src"]
        elif self.cards and tag == "g":
            self.cards[-1]["boxes"].append([attributes["class"]])
        elif self.cards and tag == "rect":
            self.cards[-1]["boxes"][-1] += [float(attributes[key]) for key in ("x", "y", "width", "height")]

    def handle_data(self, data):
        if self.cards:
            self.cards[-1]["text"] += data

    def boxes(self, card, *kinds):
        return [box[1:] for box in self.cards[card]["boxes"] if box[0] in kinds]


def table(folder):
    with (folder / "triage.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_most_drawn_come_first(sheet, trained):
    examples = pd.read_parquet(trained / "examples.parquet")
    drawn = examples[examples["draw_count"] > 0]
    expected = drawn.sort_values(["draw_count", "mean_importance"], ascending=False, kind="stable")
    lines, page = table(sheet), Page(sheet / "triage.html")
    assert [int(line["index"]) for line in lines] == expected["index"].tolist()
    assert [int(card["index"]) for card in page.cards] == expected["index"].tolist()
    assert [int(line["draw_count"]) for line in lines] == expected["draw_count"].tolist()
    assert [line["frame_id"] for line in lines] == expected["frame_id"].tolist()
    np.testing.assert_allclose([float(card["importance"]) for card in page.cards], expected["mean_importance"])
    assert [line["rank"] for line in lines] == [str(i + 1) for i in range(len(lines))]


def test_crops_and_boxes_are_those_of_the_store(sheet, tiny_store):
    split = CropStore.open(tiny_store).split("train")
    rows, page = split.annotations(), Page(sheet / "triage.html")
    for place, card in enumerate(page.cards):
        index = int(card["index"])
        picture = Image.open(io.BytesIO(base64.b64decode(card["src"].removeprefix("data:image/jpeg;base64,"))))
        assert picture.size == (160, 48)
        assert np.abs(np.asarray(picture).astype(int) - split.read([index]).images[0]).mean() < 4  # up to JPEG
        boxes = np.array(page.boxes(place, "truth", "dont-care")).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, rows.boxes[index], atol=0.02)
        assert len(page.boxes(place, "dont-care")) == rows.dont_care[index].sum()


def test_predictions_are_the_trained_network_s(sheet, trained, tiny_store):
    """The network is loaded and run here once more, one crop at a time."""
    store = CropStore.open(tiny_store)
    detector = build(DETECTOR, len(store.meta.class_names), 7)
    detector.load_state_dict(weights_of(trained))
    detector.eval()
    page, shown, threshold = Page(sheet / "triage.html"), 0, describe_model(trained / "model").shown_from
    for place, card in enumerate(page.cards):
        image = torch.from_numpy(store.split("train").read([int(card["index"])]).images).permute(0, 3, 1, 2)
        with torch.inference_mode():
            (found,) = detector.detect(image)
        expected = found["boxes"][found["scores"] >= threshold]
        boxes = np.array(page.boxes(place, "prediction", "contradiction")).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, expected.numpy(), atol=0.05)
        shown += len(boxes)
    assert shown > 20


def test_guesses_agree_between_page_and_csv(sheet):
    page = Page(sheet / "triage.html")
    kinds = {"overlooked", "swapped", "badly placed"}
    for place, (card, line) in enumerate(zip(page.cards, table(sheet), strict=True)):
        guesses = card["guesses"].split("|")
        assert line["guess"] in guesses
        assert (line["guess"] == "none seen") == (not page.boxes(place, "contradiction")) == (card["score"] == "")
        if line["guess"] != "none seen":
            assert set(guesses) <= kinds
            box = [float(line[key]) for key in ("x0", "y0", "x1", "y1")]
            drawn = np.array(page.boxes(place, "contradiction"))
            drawn[:, 2:] += drawn[:, :2]
            assert np.abs(drawn - box).max(axis=1).min() < 0.11
            assert float(line["score"]) == pytest.approx(float(card["score"]), abs=1e-3)
            assert f"{line['predicted_class']} predicted" in line["all_guesses"]
            assert (line["annotated_class"] == "") == (line["guess"] == "overlooked")
    assert {line["guess"] for line in table(sheet)} > {"none seen"}


def test_the_page_stands_alone_and_says_demo(sheet):
    page = Page(sheet / "triage.html")
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    html = (sheet / "triage.html").read_text(encoding="utf-8")
    assert "url(" not in html
    assert "import" not in html.partition("<script>")[2]
    assert "<title>DEMO: triage of run UIS-seed0 (experiment grid)</title>" in html
    assert "demo_planted_error" in table(sheet)[0]


def test_planted_errors_by_hand(mlflow, odd_run, odd_store, tmp_path, capsys):
    """Drawn 9, 9, 7 and 2 times: examples 3 (more important), 1, 0, 4. Of these 1 is wrong; of all five, 1 and 2."""
    triage_command(mlflow.uri, "odd & <i>run</i>", odd_store, tmp_path, top=2)
    assert [line["index"] for line in table(tmp_path)] == ["3", "1"]
    assert [line["demo_planted_error"] for line in table(tmp_path)] == ["", "car annotated as <b>bike</b>"]
    said = capsys.readouterr().out
    page = (tmp_path / "triage.html").read_text(encoding="utf-8")
    for k, share in ((2, 50), (4, 25)):
        line = f"Precision at {k} on the planted label errors (demo data): {share} % by draw count, 40 % at random"
        assert line in said.replace("\u00a0", " ")
        assert line in page.replace("\u00a0", " ")
    assert f"The run trained on elsewhere/moved; these examples are from {odd_store}, which has the same frames" in said
    assert (
        "The 2 most drawn of 4 drawn examples (5 in all) in run odd & <i>run</i> (experiment grid), demo data" in said
    )
    assert Page(tmp_path / "triage.html").boxes(1, "fault") == [[4, 6, 16, 20]]


def test_names_from_the_data_are_escaped(mlflow, odd_run, odd_store, tmp_path):
    triage_command(mlflow.uri, "odd & <i>run</i>", odd_store, tmp_path)
    page = Page(tmp_path / "triage.html")
    assert page.tags.count("script") == 1
    assert "i" not in page.tags
    assert "b" in page.tags  # our own
    assert "frame " + FRAMES[0] in page.cards[2]["text"]
    assert "<b>bike</b>" in page.cards[2]["text"]
    assert [line["frame_id"] for line in table(tmp_path)] == ["frame3", "'=1+1", FRAMES[0], "frame4"]


def test_without_model_and_margin(mlflow, odd_run, odd_store, tmp_path, capsys):
    """Labels are shown all the same; a crop that does not decode says so."""
    triage_command(mlflow.uri, "odd & <i>run</i>", odd_store, tmp_path)
    assert "The run has no model, so there are no predictions and no guesses." in capsys.readouterr().out
    page = Page(tmp_path / "triage.html")
    assert "The run has no model," in (tmp_path / "triage.html").read_text(encoding="utf-8")
    for place, card in enumerate(page.cards):
        assert "margin –" in card["text"]
        assert "none seen" not in card["text"]
        assert page.boxes(place, "truth") == [[4, 6, 16, 20]]
        assert not page.boxes(place, "prediction", "contradiction")
    assert "importance –" in page.cards[3]["text"]
    assert "does not decode" in page.cards[0]["text"]
    assert page.cards[0]["src"] is None
    assert {line["guess"] for line in table(tmp_path)} == {""}


def words(mark):
    return ("below" if mark.below else "above", "right" if mark.right else "left", mark.crowded)


def test_words_by_hand():
    """On a crop of 360×200 the words of a card are 10 pixels high, a letter 6 wide, a line 12; enlarged, 4 high."""

    def placed(*marks):
        return [words(mark) for mark in place_words(marks, (200, 360))]

    box = (100, 100, 50, 40)
    truth, found = Mark(*box, "car", "truth"), Mark(*box, "car 0.90", "prediction")
    assert placed(truth, found) == [("above", "left", False), ("below", "left", False)]
    assert placed(Mark(100, 10, 50, 40, "car", "truth")) == [("below", "left", False)]  # no 12 pixels above it
    assert placed(Mark(300, 100, 50, 40, "twelve chars", "truth")) == [("above", "right", False)]  # 72 wide
    # On one box of 50 are four places for 18 pixels, and two for 48, which enlarged are 19 and leave room beside them.
    four = [("above", "left", False), ("above", "right", False), ("below", "left", False), ("below", "right", False)]
    assert placed(truth, truth, truth, truth) == four
    assert placed(found, found, found) == [("below", "left", False), ("above", "left", False), ("below", "right", True)]
    assert placed(found, truth)[1] == ("above", "left", False)
    assert placed(Mark(*box, "", "fault"), truth)[1] == ("above", "left", False)


# --- which run, which store -------------------------------------------------------------------------------------------


def refused(mlflow, run, store, out, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        triage_command(mlflow.uri, run, store, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_run_by_id_or_by_a_name_that_is_unique(mlflow, odd_run, odd_store, tmp_path):
    new = tmp_path / "new"
    first = mlflow.run("twice", {}, [odd_run])
    second = mlflow.run("twice", {}, [odd_run], experiment="other")
    refused(mlflow, "twice", odd_store, new, f"has 2 runs 'twice': give the id of one of them: .*{first}.*grid")
    triage_command(mlflow.uri, "twice", odd_store, tmp_path / "a", experiment="other")
    triage_command(mlflow.uri, second, odd_store, tmp_path / "b")
    pages = [(tmp_path / name / "triage.csv").read_text() for name in "ab"]
    assert pages[0] == pages[1]
    refused(mlflow, second, odd_store, new, f"experiment 'grid' of .* has no run '{second}'", experiment="grid")
    refused(mlflow, "absent", odd_store, new, "has no run 'absent'; the latest are: .*twice")
    refused(mlflow, "f" * 32, odd_store, new, "has no run 'ffff")
    refused(mlflow, "it's", odd_store, new, "has no run")
    refused(mlflow, '"it\'s"', odd_store, new, "both kinds of quotes")
    refused(mlflow, "twice", odd_store, new, "has no experiment 'absent'; it has: .*grid", experiment="absent")


def test_a_folder_that_another_process_writes_to(sheet, tiny_store, mlflow, tmp_path):
    """It is left as it is."""
    (tmp_path / "triage.csv").write_text("theirs")
    with folder_lock(tmp_path), pytest.raises(InputError, match=f"^process {os.getpid()} on .* is writing to"):
        triage_command(mlflow.uri, "UIS-seed0", tiny_store, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["triage.csv"]
    assert (tmp_path / "triage.csv").read_text() == "theirs"


def test_a_run_without_statistics_says_why(mlflow, odd_run, odd_store, tmp_path):
    new = tmp_path / "new"
    sweep = mlflow.run("whole", {}, tags={"isod.sweep": "thesis_grid"}, experiment="unfinished")
    mlflow.run("going", {}, status="RUNNING", tags={"mlflow.parentRunId": sweep}, experiment="unfinished")
    mlflow.run("broken", {}, status="FAILED", experiment="unfinished")
    mlflow.run("foreign", {}, experiment="unfinished")
    refused(mlflow, "going", odd_store, new, r"no per-example statistics \(examples.parquet\): it is still running")
    refused(mlflow, "broken", odd_store, new, "it failed")
    refused(mlflow, "foreign", odd_store, new, "isod did not write it")
    refused(mlflow, "whole", odd_store, new, r"is a sweep: choose one of its runs \(going\)")


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"index": range(6), "frame_id": FRAMES}, "has no column draw_count, mean_importance"),
        ({"index": [0] * 6, "frame_id": FRAMES, "draw_count": 1, "mean_importance": 1.0}, "one row per example"),
        (
            {"index": range(6), "frame_id": FRAMES, "draw_count": 0, "mean_importance": 1.0},
            "drew no example that can be",
        ),
        (None, "cannot be read"),
    ],
)
def test_damaged_statistics(mlflow, odd_store, tmp_path, columns, match):
    path = tmp_path / "examples.parquet"
    path.write_text("not parquet") if columns is None else pd.DataFrame(columns).to_parquet(path)
    run_id = mlflow.run("damaged", {}, [path])
    refused(mlflow, run_id, odd_store, tmp_path / "new", match)


def test_a_store_of_other_data_is_refused(mlflow, trained, odd_run, odd_store, tiny_store, tmp_path):
    new = tmp_path / "new"
    refused(
        mlflow, "UIS-seed0", odd_store, new, "trained on .*demo, but .* holds other data: 64 training examples there, 6"
    )
    statistics = pd.read_parquet(odd_run)
    statistics["frame_id"] = [*FRAMES[:4], "another", FRAMES[5]]
    statistics.to_parquet(tmp_path / "examples.parquet")
    run_id = mlflow.run("other frames", {"store": odd_store}, [tmp_path / "examples.parquet"])
    refused(mlflow, run_id, odd_store, new, "example 4 is frame 'another' there, 'frame4' here")
    shutil.copytree(tiny_store, tmp_path / "moved")
    triage_command(mlflow.uri, "UIS-seed0", str(tmp_path / "moved"), tmp_path / "out", top=3)
    assert len(table(tmp_path / "out")) == 3


def test_a_model_that_does_not_fit_is_refused(mlflow, odd_run, odd_store, trained, tmp_path):
    new, model = tmp_path / "new", tmp_path / "model"
    run_id = mlflow.run("misfit", {}, [odd_run, trained / "model"])
    refused(mlflow, run_id, odd_store, new, "the run's model knows the classes Pedestrian, Vehicle, .* has car, ")
    shutil.copytree(trained / "model", model)
    (model / "model.safetensors").write_bytes(b"not a model")
    run_id = mlflow.run("misfit", {}, [odd_run, model])
    refused(mlflow, run_id, odd_store, new, r"the weights .*model\.safetensors cannot be read")


def test_a_run_of_an_older_isod_has_no_predictions(mlflow, odd_run, odd_store, tmp_path, caplog):
    (tmp_path / "model.pt").write_bytes(b"of an older isod")
    run_id = mlflow.run("old", {}, [odd_run, tmp_path / "model.pt"])
    triage_command(mlflow.uri, run_id, odd_store, tmp_path / "out")
    assert "has the model.pt of an isod before 0.2" in caplog.text
    assert len(table(tmp_path / "out")) == 4


def test_the_command_line(mlflow, odd_run, odd_store, tmp_path, capsys):
    run = ["--run", "odd & <i>run</i>", "--store", odd_store]
    assert main(["triage", "--tracking-uri", mlflow.uri, *run, "--out", str(tmp_path / "out"), "--top", "3"]) == 0
    assert f"{tmp_path}/out/triage.html, for annotators: {tmp_path}/out/triage.csv" in capsys.readouterr().out
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
    (tmp_path / "file").write_text("")
    for uri, options, match in [
        (closed, ["--out", str(tmp_path / "new")], f"the MLflow store {closed} cannot be used: "),
        (mlflow.uri, ["--out", str(tmp_path / "file")], "cannot write the sheet into"),
        (mlflow.uri, ["--out", str(tmp_path / "new"), "--top", "0"], "--top must be ≥ 1"),
        (mlflow.uri, ["--out", str(tmp_path / "new"), "--store", str(tmp_path)], "is not a crop store"),
    ]:
        assert main(["triage", "--tracking-uri", uri, *run, *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("isod: ")
        assert match in error
        assert error.count("\n") == 1


# --- in a browser -----------------------------------------------------------------------------------------------------

PROBE = """
<script>
const said = {};
const order = () => shown.map((card) => Number(card.dataset.index));
const set = (selector, property, value) => {
  const item = document.querySelector(selector);
  item[property] = value;
  item.dispatchEvent(new Event("input", {bubbles: true}));
};
const visible = (selector) => [...document.querySelectorAll(".cards " + selector)].filter(
  (item) => getComputedStyle(item).display !== "none").length;
said.start = order();
for (const key of ["importance", "margin", "score", "index", "draws"]) {
  set("#sort", "value", key);
  said[key] = order();
  said[key + " in the page"] = [...document.querySelectorAll(".card")].map((card) => Number(card.dataset.index));
}
set("#reverse", "checked", true);
said.reversed = order();
set("#reverse", "checked", false);
said.truth = visible(".truth");
set("[value=truth]", "checked", false);
said.without_truth = visible(".truth");
set("[value=truth]", "checked", true);
set("[value='none seen']", "checked", false);
said.guessed = order();
said.count = document.querySelector("#count").value;
document.querySelector(".card:not([hidden]) .picture").click();
said.open = document.querySelector("dialog").open;
said.enlarged = document.querySelector("dialog .who").textContent;
document.querySelector("dialog .back").click();
said.before_it = document.querySelector("dialog .who").textContent;
document.querySelector("dialog .close").click();
said.closed = !document.querySelector("dialog").open;
said.overflow = document.documentElement.scrollWidth - window.innerWidth;
document.body.innerHTML = "";
document.body.append(Object.assign(document.createElement("pre"), {id: "said", textContent: JSON.stringify(said)}));
</script>
"""


def in_chromium(page, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine")
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8") + PROBE, encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom", probed.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    text = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.S)
    assert text, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(html.unescape(text.group(1)))


@pytest.mark.parametrize("width", [1280, 500])
def test_sorting_filtering_and_enlarging(sheet, trained, tmp_path, width):
    """Chromium's window is at least 500 pixels wide, headless too."""
    said = in_chromium(sheet / "triage.html", tmp_path, width)
    lines = pd.DataFrame(table(sheet)).astype({"index": int, "rank": int, "draw_count": int, "mean_importance": float})
    lines["score"] = pd.to_numeric(lines["score"])
    lines["margin"] = pd.to_numeric(lines["margin"])
    page = Page(sheet / "triage.html")
    lines["score"] = [float(card["score"] or "nan") for card in page.cards]
    lines["mean_importance"] = [float(card["importance"]) for card in page.cards]

    def by(column, ascending):
        return lines.sort_values([column, "rank"], ascending=[ascending, True])["index"].tolist()  # NaN last

    assert said["start"] == said["draws"] == lines["index"].tolist()
    assert said["importance"] == said["importance in the page"] == by("mean_importance", False)
    assert said["margin"] == by("margin", True)
    assert said["score"] == by("score", False)
    assert said["index"] == said["index in the page"] == sorted(lines["index"])
    assert said["reversed"] == by("draw_count", True)
    assert said["truth"] == sum(len(page.boxes(place, "truth")) for place in range(len(lines))) > 0
    assert said["without_truth"] == 0
    guessed = lines[lines["guess"] != "none seen"]
    assert said["guessed"] == guessed["index"].tolist()
    assert said["count"] == f"{len(guessed)} of {len(lines)} shown"
    assert said["open"]
    assert said["closed"]
    assert f"index {guessed['index'].iloc[0]} ·" in said["enlarged"]
    assert f"index {guessed['index'].iloc[-1]} ·" in said["before_it"]
    assert said["overflow"] <= 0
