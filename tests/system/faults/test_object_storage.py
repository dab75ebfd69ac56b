"""A crop store on a real S3 server of this machine's loopback, which also goes away."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import boto3
import numpy as np
import pytest

from isod.data.prepare.job import prepare_demo
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.files import output_folder
from tests.system.cluster.local import free_ports
from tests.system.faults.conftest import assert_recorded, grid_command, start_driver, until

moto = pytest.importorskip("moto.server", reason="needs moto[s3]")

BUCKET = "bucket"


class S3:
    """An S3 server, whose buckets outlive its being away."""

    def __init__(self):
        (self.port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        self._server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self):
        self._server.stop()


@pytest.fixture(scope="module")
def s3():
    """The server with a bucket, and the environment that S3's clients find it by."""
    server = S3()
    variables = {"AWS_ACCESS_KEY_ID": "isod", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
                 "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": server.uri, "AWS_ALLOW_HTTP": "true",
                 "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
        server.stop()


@pytest.fixture(scope="module")
def store(s3, demo_root):
    """``tiny_store``, in the bucket."""
    uri = f"s3://{BUCKET}/stores/demo"
    prepare_demo(demo_root, uri, resize=(160, 48), map_chunks=map)
    return uri


def test_a_store_in_a_bucket_is_the_one_in_a_folder(store, tiny_store):
    there, here = CropStore.open(store), CropStore.open(tiny_store)
    assert there.meta.rows == here.meta.rows == {"train": 64, "val": 16}
    for name in ("train", "val"):
        ours, theirs = here.split(name), there.split(name)
        assert theirs.read_encoded(range(len(ours))) == ours.read_encoded(range(len(ours)))
        assert all(map(np.array_equal, theirs.annotations().boxes, ours.annotations().boxes))


def test_prepare_leaves_nothing_but_the_store_in_the_bucket(store):
    keys = {entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="stores/")["Contents"]}
    files = {key.removeprefix("stores/demo/") for key in keys if not key.endswith("/")}
    assert {name.split("/")[0] for name in files} <= {"store.json", "train.lance", "val.lance", "faults.json"}
    assert not any(name.endswith(".part") for name in files)


@pytest.mark.parametrize("out", ["s3://bucket/runs", "https://example.org/runs"])
def test_results_need_a_folder(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is an address, and checkpoints and results need a folder"):
        output_folder(Path(out))
    assert list(tmp_path.iterdir()) == []


SENTENCE = """
import sys
from isod.data.store.split import CropStore
from isod.errors import InputError
try:
    CropStore.open(sys.argv[1])
except InputError as error:
    sys.exit(f"one sentence: {error}")
"""


def opened(uri, **variables):
    done = subprocess.run([sys.executable, "-c", SENTENCE, uri], env=os.environ | variables, capture_output=True,
                          text=True, timeout=120, check=False)  # fmt: skip
    return done.stderr


def test_a_server_that_is_away_is_one_sentence(store):
    (nobody,) = free_ports(1)
    said = opened(store, AWS_ENDPOINT_URL=f"http://127.0.0.1:{nobody}")
    assert said.startswith(f"one sentence: {store}/store.json cannot be read")
    assert "NETWORK_CONNECTION" in said
    assert said.count("\n") == 1


def test_wrong_credentials_are_one_sentence(s3, store):
    def ask_for_credentials(after: str) -> None:
        """The server lets nobody in after this many requests; nobody has an account."""
        request = urllib.request.Request(
            f"{s3.uri}/moto-api/reset-auth", after.encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()

    ask_for_credentials("0")
    try:
        said = opened(store)
    finally:
        ask_for_credentials("inf")
    assert said.startswith(f"one sentence: {store}/store.json cannot be read")
    assert "ACCESS_DENIED" in said
    assert "your credentials" in said
    assert said.count("\n") == 1
    assert opened(store) == ""


def test_prepare_resumes_when_the_server_is_back(s3, store, demo_root, monkeypatch):
    uri = f"s3://{BUCKET}/stores/interrupted"
    monkeypatch.setenv("OBJECT_STORE_CLIENT_MAX_RETRIES", "1")

    def away_after_the_first(work, chunks):
        for place, chunk in enumerate(chunks):
            if place == 1:
                s3.stop()
            yield work(chunk)

    try:
        with pytest.raises(InputError, match=f"cannot write to {uri}.* finished chunks are kept"):
            prepare_demo(demo_root, uri, resize=(160, 48), map_chunks=away_after_the_first)
    finally:
        s3.start()
    with pytest.raises(InputError, match="is not a crop store"):
        CropStore.open(uri)
    report = prepare_demo(demo_root, uri, resize=(160, 48), map_chunks=map)
    assert report.resumed == 1
    whole = CropStore.open(store).split("train")
    assert CropStore.open(uri).split("train").read_encoded(range(len(whole))) == whole.read_encoded(range(len(whole)))


@pytest.mark.slow  # a minute without the server, and the start of a driver
@pytest.mark.timeout(560)
def test_a_sweep_whose_checkpoints_and_artifacts_are_in_a_bucket_outlives_its_server(s3, store, tmp_path, undisturbed):
    """Store, checkpoints, models and MLflow's files on the server, which goes away for a minute in mid-training."""
    storage = f"s3://{BUCKET}/runs"
    command = [*grid_command(store, tmp_path, ["baseline", "UIS"]), "--storage", storage]
    driver = start_driver(command, tmp_path)
    try:
        until(lambda: keys("runs/runs/", "baseline-seed0/checkpoint-"))
        s3.stop()
        time.sleep(60)
        assert driver.poll() is None
    finally:
        s3.start()
    said, error = driver.communicate(timeout=400)
    assert driver.returncode == 0, error[-3000:]
    assert "Traceback" not in said + error
    uri, experiment = f"sqlite:///{tmp_path}/mlflow.db", "thesis-grid-demo"
    assert_recorded(uri, experiment, {name: undisturbed(name) for name in ("baseline", "UIS")})
    assert not keys("runs/runs/", "checkpoint-")
    assert len(keys("runs/artifacts/", "/artifacts/model/model.json")) == 4  # of each run, and of its logged model
    assert not list(tmp_path.rglob("examples.parquet"))
    resumed = subprocess.run([*command[: command.index("--storage")], "--resume"], capture_output=True, text=True,
                             timeout=200, check=False)  # fmt: skip
    assert resumed.returncode == 2
    assert f"began with other settings (storage was {storage} and is None): use the same" in resumed.stderr


def keys(prefix, part):
    """Objects of the bucket."""
    found = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [entry["Key"] for entry in found if part in entry["Key"]]


@pytest.mark.parametrize("address", ["s3://no-such-bucket/runs", "gopher://bucket/runs", "s3://"])
def test_a_storage_that_takes_nothing_is_one_sentence(s3, tiny_store, tmp_path, address):
    command = [sys.executable, "-m", "isod", "sweep", "--store", tiny_store, "--samplers", "baseline",
               "--out", tmp_path, "--storage", address]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert re.match(
        rf"isod: (cannot write to |--storage must be an address .*)?{address}", done.stderr.splitlines()[-1]
    )
    assert "Traceback" not in done.stderr
