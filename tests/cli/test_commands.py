"""Bad input through the command lines: exit code 2, one sentence that names what is wrong, and nothing lost."""

import json
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import torch

from isod.cli import main as cli
from isod.cli import sweep as study
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.orchestration.cluster import connect
from isod.sampling.samplers import SAMPLERS
from isod.signals import sigterm_as_ctrl_c
from sweeps.thesis_grid import STUDY
from tests.system.signals import handlers


def thesis_grid(arguments):
    return study.main(STUDY, None, arguments)


@pytest.fixture
def refused(capfd):
    """Runs a command line and gives the one sentence that it was refused with."""

    def run(main, *arguments):
        capfd.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        (error,) = [line for line in lines if not line.startswith("preparing ")]  # the progress bar
        program, _, sentence = error.partition(": ")
        assert program == ("thesis_grid" if main is thesis_grid else "isod")
        return sentence

    return run


def test_the_samplers_are_listed_with_what_they_are_from(capsys):
    assert cli.main(["samplers"]) == 0
    printed = capsys.readouterr().out.splitlines()
    title, *rows = printed[::2]
    assert title.split() == ["sampler", "heuristic", "reduction", "strategy"]
    assert [row.split()[0] for row in rows] == list(SAMPLERS)
    at = next(i for i, row in enumerate(printed) if row.startswith("gradient-norm "))
    assert printed[at].split()[1:] == ["gradient_norm", "norm", "proportional"]
    assert printed[at + 1] == (
        f"    In proportion to a bound of the gradient's norm. ({SAMPLERS['gradient-norm'].source})"
    )
    assert len(set(printed)) == len(printed)


@pytest.fixture
def coco(tmp_path):
    """A COCO set of three train images and two val images, 30×20, each with one car; its command line, and its jsons.

    A changed json is written with ``save``.
    """

    class Coco:
        images = tmp_path / "images"
        store = tmp_path / "store"
        arguments = ("prepare", "coco", store, "--train", images, tmp_path / "train.json",
                     "--val", images, tmp_path / "val.json")  # fmt: skip

        def save(self):
            for split in ("train", "val"):
                (tmp_path / f"{split}.json").write_text(json.dumps(getattr(self, split)))

    coco = Coco()
    coco.images.mkdir()
    rng = np.random.default_rng(0)
    for split, numbers in (("train", (1, 2, 3)), ("val", (4, 5))):
        for i in numbers:
            noise = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            (coco.images / f"{i}.jpg").write_bytes(simplejpeg.encode_jpeg(noise))
        content = {
            "categories": [{"id": 1, "name": "car"}],
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": 30, "height": 20} for i in numbers],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 9, 8]} for i in numbers],
        }
        setattr(coco, split, content)
    coco.save()
    return coco


# --- datasets --------------------------------------------------------------------------------------------------------


def test_root_that_is_not_zod(refused, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    sentence = refused(cli.main, "prepare", "zod", tmp_path, tmp_path / "store")
    assert f"{tmp_path} does not hold ZOD Frames 'full': there is no trainval-frames-full.json in it" in sentence
    assert "does not hold ZOD" in refused(cli.main, "prepare", "zod", tmp_path / "none", tmp_path / "store")
    (tmp_path / "trainval-frames-full.json").write_text('{"train": 3}')
    assert "is not ZOD Frames" in refused(cli.main, "prepare", "zod", tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_unknown_version_and_anonymization(refused, demo_root, tmp_path):
    sentence = refused(cli.main, "prepare", "zod", demo_root, tmp_path / "store", "--version", "huge")
    assert "must be one of ('full', 'mini'), got 'huge'" in sentence
    command = ("prepare", "zod", demo_root, tmp_path / "store", "--version", "mini", "--anonymization")
    assert "one of ('blur', 'dnat', 'original'), got 'none'" in refused(cli.main, *command, "none")
    assert "no frame with a front camera image of anonymization 'dnat'" in refused(cli.main, *command, "dnat")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("images: 3", "is not JSON"),
        ("[1, 2]", 'it holds a list, not an object with the keys "images", "annotations" and "categories"'),
        ('{"images": [], "annotations": []}', 'it has no key "categories"; its keys are'),
        ('{"images": [], "annotations": [], "categories": []}', '"categories" is empty. Add at least one category.'),
    ],
)
def test_json_that_is_not_coco(refused, coco, tmp_path, text, rule):
    (tmp_path / "train.json").write_text(text)
    sentence = refused(cli.main, *coco.arguments)
    assert sentence.startswith(str(tmp_path / "train.json"))
    assert rule in sentence
    assert not coco.store.exists()


@pytest.mark.parametrize(
    ("bbox", "rule"),
    [
        ([2, 3, 9, -1], "bbox [2, 3, 9, -1], with a negative width or height. Write it as [x, y, width, height]"),
        ([2, None, 9, 8], "bbox [2, None, 9, 8]. Make it four finite numbers, [x, y, width, height]"),
        ([2, 3, 9], "bbox [2, 3, 9]. Make it four finite numbers, [x, y, width, height]"),
    ],
)
def test_bad_boxes(refused, coco, tmp_path, bbox, rule):
    coco.train["annotations"][1]["bbox"] = bbox
    coco.save()
    sentence = refused(cli.main, *coco.arguments)
    assert f"{tmp_path / 'train.json'}: annotation 2 has {rule}" in sentence


@pytest.mark.parametrize(
    ("bbox", "what"),
    [
        ([2, 3, 0, 8], "boxes left out, as none of their area is inside their image: 1, the first of annotation 2"),
        ([100, 100, 9, 8], "boxes left out, as none of their area is inside their image: 1, the first of annotation 2"),
        ([25, 3, 9, 8], "boxes clipped, as they reach beyond their image: 1, the first of annotation 2"),
    ],
)
def test_boxes_that_do_not_lie_in_their_image_are_told(coco, tmp_path, capfd, bbox, what):
    coco.train["annotations"][1]["bbox"] = bbox
    coco.save()
    assert cli.main([str(argument) for argument in coco.arguments]) == 0
    assert f"note: {tmp_path / 'train.json'}: {what}" in capfd.readouterr().out


def test_a_box_that_is_nan(refused, coco, tmp_path):
    """JSON knows no NaN, though Python writes it; a number too large for a float is infinite."""
    coco.train["annotations"][1]["bbox"] = [2, float("nan"), 9, 8]
    coco.save()
    sentence = refused(cli.main, *coco.arguments)
    column = (tmp_path / "train.json").read_text().index("NaN") + 1  # it has one line
    place = f"line 1 column {column}; write a number there, or null"
    assert sentence == f"{tmp_path / 'train.json'} is not JSON: NaN is not a JSON number: {place}"
    text = (tmp_path / "train.json").read_text().replace("NaN", "1e999")
    (tmp_path / "train.json").write_text(text)
    sentence = refused(cli.main, *coco.arguments)
    assert "annotation 2 has bbox [2, inf, 9, 8]. Make it four finite numbers" in sentence


def test_a_class_in_val_that_train_lacks(refused, coco):
    coco.val["categories"].append({"id": 2, "name": "moose"})
    coco.val["annotations"][0]["category_id"] = 2
    coco.save()
    sentence = refused(cli.main, *coco.arguments)
    assert "val.json has the class 'moose', which" in sentence
    assert "train.json lacks" in sentence


def test_missing_and_truncated_images_are_listed(coco, capfd):
    """They keep their places; the rest is prepared."""
    (coco.images / "1.jpg").unlink()
    (coco.images / "5.jpg").write_bytes((coco.images / "5.jpg").read_bytes()[:300])
    assert cli.main([str(argument) for argument in coco.arguments]) == 0
    out = capfd.readouterr().out
    assert "2 frames could not be read" in out
    assert "train 0: its image" in out
    assert "No such file" in out
    assert "val 1: its image" in out
    assert CropStore.open(coco.store).meta.rows == {"train": 3, "val": 2}


def test_no_image_at_all(refused, coco):
    for i in (4, 5):
        (coco.images / f"{i}.jpg").write_bytes(b"")
    sentence = refused(cli.main, *coco.arguments)
    assert "none of the 2 frames of split 'val' can be read; the first one: " in sentence
    shutil.rmtree(coco.images)
    assert "does not exist or is not a folder" in refused(cli.main, *coco.arguments)
    coco.images.mkdir()
    assert "none of the 3 images of" in refused(cli.main, *coco.arguments)


def test_a_full_disk_while_preparing(refused, coco, small_disk):
    """A disk with room for the store once a ballast file has gone."""
    disk, _ = small_disk
    (disk / "ballast").write_bytes(bytes(2**20 - 16384))
    arguments = ("prepare", "coco", disk / "store", *coco.arguments[3:])
    sentence = refused(cli.main, *arguments)
    assert sentence.endswith(
        f"the disk that holds {disk / 'store'} is full: free some space and run the same command again; finished "
        "chunks are kept"
    )
    (disk / "ballast").unlink()
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert CropStore.open(disk / "store").meta.rows == {"train": 3, "val": 2}


def test_a_full_disk_while_training(tiny_store, small_disk, capfd):
    """With room for neither a checkpoint nor the network; there is some the second time."""
    disk, resize = small_disk
    out = disk / "run"
    arguments = ["train", tiny_store, "--out", str(out), "--preset", "demo", "--width", "0.25", "--batch-size", "8",
                 "--iterations", "4", "--validate-every", "2"]  # fmt: skip
    assert cli.main(arguments) == 2
    said, error = capfd.readouterr()
    assert error == f"isod: the disk that holds {out / 'model'} is full: what was written stays; free some space\n"
    assert "checkpoint at iteration 2 not written (No space left on device); the run continues" in said
    assert list(pd.read_csv(out / "metrics.csv")["iteration"]) == [2, 4]
    resize("64m")
    assert cli.main([*arguments, "--resume"]) == 0
    assert (out / "model" / "model.json").exists()


def test_a_run_counts_sizes_as_prepare_does(coco, tmp_path):
    """Crops of unequal sizes are padded to the largest; a box is a share of its own crop all the same."""
    rng = np.random.default_rng(0)
    for split, number, height, width in (("val", 4, 64, 96), ("val", 5, 192, 256), ("train", 1, 64, 96)):
        noise = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        (coco.images / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(noise))
        for image in getattr(coco, split)["images"]:
            if image["id"] == number:
                image.update(height=height, width=width)
    coco.save()
    assert cli.main([str(argument) for argument in coco.arguments]) == 0
    counts = CropStore.open(coco.store).meta.counts["val"]["car"]
    assert counts == {"small": 1, "medium": 1, "large": 0}  # 72 px² of 64×96 and of 192×256
    run = ["train", str(coco.store), "--out", str(tmp_path / "run"), "--preset", "demo", "--width", "0.125"]
    assert cli.main([*run, "--batch-size", "2", "--iterations", "2"]) == 0
    metrics = pd.read_csv(tmp_path / "run/metrics.csv").iloc[-1]
    assert {size: metrics[f"GT_{size}/car"] for size in counts} == counts


def test_a_loss_that_is_not_finite_is_a_sentence(tiny_store, tmp_path, capfd):
    arguments = ["train", tiny_store, "--out", str(tmp_path), "--preset", "demo", "--width", "0.125",
                 "--batch-size", "8", "--iterations", "20", "--lr", "1e30"]  # fmt: skip
    assert cli.main(arguments) == 1
    (error,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(
        r"isod: loss is (nan|inf) at step \d+, examples \[.*\]: lower --lr, or look at these examples", error
    )


def test_a_folder_without_permission_is_a_sentence(capsys):
    def locked():
        raise PermissionError(13, "Permission denied", "/locked/run")

    assert cli.exit_cleanly("isod", [], locked) == 2
    assert capsys.readouterr().err == (
        "isod: /locked/run: Permission denied: change its permissions, or name another folder\n"
    )


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])  # ignored: what `&` in a script does
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_ends_a_command_is_told_by_its_exit_code(capsys, ctrl_c, number, code):
    def stopped():
        signal.raise_signal(number)
        return 7

    with handlers(ctrl_c):
        ignored = number == signal.SIGINT and ctrl_c == signal.SIG_IGN
        assert cli.exit_cleanly("isod", [], stopped) == (7 if ignored else code)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert capsys.readouterr().err == ("" if ignored else "isod: stopped\n")


def test_ray_leaves_sigterm_to_the_program(monkeypatch):
    """What Ray does to it on its start: `set_sigterm_handler` in ray/_private/worker.py."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda *_, **__: signal.signal(signal.SIGTERM, lambda *_: sys.exit(15)))
    with handlers(), sigterm_as_ctrl_c():
        connect()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_torch_does_not_see(refused, tiny_store, tmp_path):
    sentence = refused(cli.main, "train", tiny_store, "--out", tmp_path / "run", "--device", "cuda")
    assert sentence == "device must be cpu where torch sees no CUDA GPU, got 'cuda'"
    assert not (tmp_path / "run").exists()


def test_compiling_without_a_compiler(refused, tiny_store, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    sentence = refused(cli.main, "train", tiny_store, "--out", tmp_path / "run", "--compiled", "--device", "cpu",
                       "--preset", "demo")  # fmt: skip
    needs = re.escape("compiled needs a compiler (g++ or clang++)")
    assert re.fullmatch(rf"{needs}.*: install that, or train with --no-compiled", sentence)


def test_a_store_is_known_by_its_place_and_not_by_how_it_was_named(refused, tiny_store, tmp_path, monkeypatch, capfd):
    """A relative name would be another store elsewhere."""
    store, run = Path(tiny_store), tmp_path / "run"
    arguments = ["--out", str(run), "--preset", "demo", "--width", "0.125", "--batch-size", "8", "--iterations", "2"]
    monkeypatch.chdir(store.parent)
    assert cli.main(["train", store.name, *arguments]) == 0
    assert json.loads((run / "config.json").read_text())["store"] == tiny_store
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", tiny_store, *arguments, "--resume"]) == 0
    assert "has finished" in capfd.readouterr().out
    for damaged, file in (("", "config.json"), ("{}", "config.json"), ("", "metrics.csv")):
        shutil.rmtree(run / "model", ignore_errors=True)
        kept = (run / file).read_text()
        (run / file).write_text(damaged)
        sentence = refused(cli.main, "train", tiny_store, *arguments, "--resume")
        assert re.fullmatch(rf"{run / file} is damaged.*: start the run anew, in another folder", sentence)
        (run / file).write_text(kept)


# --- stores ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["isod train", "thesis_grid"])
def training(request, tmp_path):
    """The two ways to train on a store: main, and the arguments that put the store first."""
    out = tmp_path / "out"
    if request.param == "isod train":
        return cli.main, lambda store, *rest: ("train", store, "--out", out, *rest)
    return thesis_grid, lambda store, *rest: (
        "--store", store, "--out", out, *(rest if "--sampler" not in rest else ("--samplers", *rest[1:]))
    )  # fmt: skip


def test_a_store_that_is_none(refused, training, tmp_path):
    main, arguments = training
    for store in (tmp_path, tmp_path / "nowhere", __file__):
        sentence = refused(main, *arguments(store))
        assert f"{store} is not a crop store (no store.json in it): make one with `isod prepare`" in sentence
    (tmp_path / "store.json").write_text('{"what": "somebody else\'s"}')
    assert "was not written by `isod prepare`" in refused(main, *arguments(tmp_path))
    (tmp_path / "store.json").write_text("{")
    assert "is not JSON" in refused(main, *arguments(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_store_made_by_another_version(refused, training, tiny_store, tmp_path):
    main, arguments = training
    meta = json.loads(CropStore.open(tiny_store).meta.to_json())
    (tmp_path / "store.json").write_text(json.dumps({**meta, "format_version": 7}))
    sentence = refused(main, *arguments(tmp_path))
    assert "has format version 7, and this isod reads version 1: prepare it again" in sentence


def test_a_batch_larger_than_the_data_set(refused, ray_local, training, tiny_store):
    main, arguments = training
    sentence = refused(main, *arguments(tiny_store, "--sampler", "UIS", "--batch-size", 65))
    assert sentence == "batch_size must not exceed the 64 training examples of the store, got 65"


def test_unknown_names(refused, training, tiny_store):
    main, arguments = training
    sentence = refused(main, *arguments(tiny_store, "--sampler", "best"))
    assert sentence.startswith("unknown sampler 'best'; choose one of baseline, LIS, UIS")
    sentence = refused(main, *arguments(tiny_store, "--preset", "huge"))
    assert sentence == "unknown preset 'huge'; choose one of demo, small, medium, thesis"
    for typed, meant in (("UIS_IR", "UIS-IR"), ("basline", "baseline")):
        sentence = refused(main, *arguments(tiny_store, "--sampler", typed))
        assert sentence.startswith(f"unknown sampler {typed!r}; did you mean {meant!r}? choose one of baseline, LIS")


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--iterations", 0, "iterations must be ≥ 1, got 0"),
        ("--batch-size", 0, "batch_size must be ≥ 1, got 0"),
        ("--validate-every", -1, "validate_every must be ≥ 1, got -1"),
        ("--lag", -1, "lag must be ≥ 0, got -1"),
        ("--lr", "nan", "lr must be > 0 and finite, got nan"),
        ("--width", "inf", "detector width must be in (0, 4], got inf"),
        ("--workers", 0, "decode_workers must be ≥ 1, got 0"),
        ("--threads", 0, "threads must be ≥ 1, got 0"),
    ],
)
def test_settings_out_of_range(refused, training, tiny_store, option, value, rule):
    main, arguments = training
    assert refused(main, *arguments(tiny_store, option, value)) == f"{option} {value}: {rule}"


def test_out_that_cannot_be_written(refused, ray_local, tiny_store, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file/below", "/proc/isod"):
        for main, arguments in (
            (cli.main, ("train", tiny_store)),
            (thesis_grid, ("--store", tiny_store, "--samplers", "UIS")),
        ):
            sentence = refused(main, *arguments, "--out", out)
            assert sentence.startswith(f"cannot write to the folder {out} (")
            assert sentence.endswith("choose another --out")
    assert (tmp_path / "file").read_text() == "mine"


def test_out_that_holds_a_run(refused, tiny_store, tmp_path):
    (tmp_path / "metrics.csv").write_text("iteration,mAP\n50,0.5\n")
    sentence = refused(cli.main, "train", tiny_store, "--out", tmp_path)
    assert sentence == f"--out must be a folder without an earlier run, unless you --resume it, got '{tmp_path}'"
    assert (tmp_path / "metrics.csv").read_text() == "iteration,mAP\n50,0.5\n"
    assert len(list(tmp_path.iterdir())) == 1


# --- sweeps and results ----------------------------------------------------------------------------------------------


@pytest.fixture
def sweep(refused, ray_local, tiny_store, tmp_path):
    """A sweep that would run, were it not for the further arguments; gives the sentence."""
    return lambda *rest: refused(thesis_grid, "--store", tiny_store, "--out", tmp_path, "--samplers", "baseline", *rest)


def test_a_sampler_twice(sweep):
    sentence = sweep("--samplers", "UIS", "LIS", "UIS")
    assert sentence == "--samplers must name each sampler once, got ['UIS', 'LIS', 'UIS']"


def test_no_seeds(sweep):
    assert sweep("--seeds", 0) == "--seeds must be ≥ 1, got 0"
    assert sweep("--first-seed", -1) == "--first-seed must be ≥ 0, got -1"


def test_more_decode_workers_than_the_machine_has(sweep):
    assert sweep("--workers", 50) == (
        "a trial needs 0.75 CPU for training + 50 decode workers × 0.25 CPU = 13.25 CPUs and Ray has 2: ask for fewer "
        "decode workers or less CPU"
    )


def test_no_gpu_for_the_thesis(sweep, ray_local):
    if ray_local.cluster_resources().get("GPU"):
        pytest.skip("there is a GPU")
    sentence = sweep("--preset", "thesis", "--workers", 1, "--batch-size", 8)
    assert sentence.startswith("a trial needs 1 GPU and there are 0: set --gpus-per-trial 0 for the CPU")


def test_the_workers_of_a_trial_on_one_gpu(sweep):
    assert sweep("--workers-per-trial", 2, "--gpus-per-trial", 0.5) == (
        "--workers-per-trial 2, --gpus-per-trial 0.5: "
        "the workers of one trial cannot share a GPU: with workers_per_trial > 1, gpus_per_trial must be 0 or ≥ 1, "
        "got 0.5"
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("runs", "a tracking URI starts with sqlite:///, http:// or the like, got 'runs'"),
        ("nonsense://x", "the MLflow store nonsense://x cannot be used: "),
        ("sqlite:////proc/isod/mlflow.db", "the MLflow store sqlite:////proc/isod/mlflow.db cannot be used: "),
        ("http://127.0.0.1:9", "the MLflow store http://127.0.0.1:9 cannot be used: "),
    ],
)
def test_a_tracking_uri_that_leads_nowhere(sweep, uri, reason):
    assert sweep("--tracking-uri", uri).startswith(reason)


def test_a_tracking_uri_is_refused_before_demo_data_is_made(refused, tmp_path):
    sentence = refused(thesis_grid, "--out", tmp_path, "--tracking-uri", "sqlite:////proc/isod/mlflow.db")
    assert sentence.startswith("the MLflow store sqlite:////proc/isod/mlflow.db cannot be used: ")
    assert not list(tmp_path.iterdir())


def test_a_tracking_uri_of_something_else(sweep, tmp_path):
    (tmp_path / "notes.db").write_text("not a database, but dear to its owner")
    sentence = sweep("--tracking-uri", f"sqlite:///{tmp_path}/notes.db")
    assert sentence.endswith("file is not a database")
    assert (tmp_path / "notes.db").read_text() == "not a database, but dear to its owner"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_ray_address_where_nobody_answers(sweep, monkeypatch, address):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    sentence = sweep("--address", address)
    assert sentence.startswith(f"no Ray cluster answers at '{address}' ([Errno 111] Connection refused): ")


def test_a_machine_too_busy_for_ray_gets_three_attempts(monkeypatch):
    tried = []

    def too_slow(address, **options):
        assert address == "local"
        tried.append(options["num_cpus"])
        raise Exception("The current node timed out during startup. This could happen because …")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", too_slow)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with pytest.raises(InputError, match="Ray did not start in 3 attempts: the machine is too busy"):
        connect(cpus=7)
    assert tried == [7, 7, 7]


def test_results_of_nothing(refused, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    sentence = refused(cli.main, "results", "--tracking-uri", uri, "--experiment", "x", "--out", tmp_path)
    assert sentence == f"there is no MLflow database at {uri}"


@pytest.mark.parametrize("name", ["caf\udce9", "a\0b"])
def test_a_name_that_is_no_utf8_text(refused, name):
    sentence = refused(cli.main, "train", name, "--out", "out")
    assert sentence == f"{name!r} is no UTF-8 text, as file names and all else must be"


def test_a_name_that_is_too_long_for_a_file(refused, tmp_path):
    sentence = refused(cli.main, "prepare", "coco", tmp_path / "store", "--train", "x" * 3000, "t", "--val", "v", "v")
    assert sentence == f"{'x' * 100}… is too long a name for a file"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["results", "--metrc", "mAP"], "unknown option of isod results, '--metrc'; did you mean '--metric'? "),
        (["sweep", "--seed=3"], "unknown option of isod sweep, '--seed'; did you mean '--seeds'? "),
        (
            ["prepare", "zod", "root", "store", "--quit"],
            "unknown option of isod prepare zod, '--quit'; did you mean '--quiet'? ",
        ),
        (["doctor", "--frobnicate"], "unknown option of isod doctor, '--frobnicate'; choose one of --help"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(refused, words, sentence):
    assert refused(cli.main, *words).startswith(sentence)


def test_an_unknown_command_is_refused_by_argparse(capfd):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fly"])
    assert stopped.value.code == 2
    assert "invalid choice: 'fly'" in capfd.readouterr().err
