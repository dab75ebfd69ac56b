"""A run whose folder lies at an address, here of this machine's disk; tests/system/faults has an S3 server."""

import errno
import os
from unittest import mock

import pandas as pd
import pyarrow.fs
import pytest

from isod.config.settings import ResourceConfig
from isod.data.store.split import CropStore
from isod.errors import InputError
from isod.messages import messages_to
from isod.training import remote_folder
from isod.training.folder import RunFolder
from isod.training.remote_folder import RemoteFolder, require_storage
from isod.training.run import Run
from tests.training.test_resume import assert_same_results, interrupt_at
from tests.training.tiny_run import CPU, Reports, run_here, tiny_run

CONFIG = tiny_run(iterations=20, validate_every=7)


def train_at(uri, store, listen=lambda iteration: None):
    """One attempt, on a machine that has nothing of the run."""
    remote = RemoteFolder(uri)
    with remote.worked_in() as copy:
        resources = ResourceConfig(decode_workers=1, checkpoint_share=1.0)
        run = Run(config=CONFIG, store=CropStore.open(store), folder=RunFolder(copy), device=CPU, resources=resources,
                  remote=remote)  # fmt: skip
        run.train(run.local_stream, Reports(listen))


@pytest.fixture(scope="module")
def whole(tiny_store, tmp_path_factory):
    return run_here(CONFIG, tiny_store, tmp_path_factory.mktemp("whole"))


def test_another_machine_resumes_bit_identically(tiny_store, tmp_path, whole):
    there = tmp_path / "there"
    with pytest.raises(KeyboardInterrupt):
        train_at(there.as_uri(), tiny_store, interrupt_at(14))
    assert max(path.name for path in there.iterdir()) == "metrics.csv"
    assert max(path.name for path in there.glob("checkpoint-*")) == "checkpoint-000000014.pt"
    began = []
    train_at(there.as_uri(), tiny_store, began.append)
    assert began == [20]
    assert_same_results(whole, there)
    assert not list(there.glob("checkpoint-*"))
    train_at(there.as_uri(), tiny_store, began.append)  # it has finished
    assert began == [20]


def test_storage_that_is_away_costs_a_run_nothing(tiny_store, tmp_path, whole):
    """From the first checkpoint to the last: the results come at the end."""
    there, copy_files, said, failed = tmp_path / "there", pyarrow.fs.copy_files, [], []

    def away(*arguments):
        if len(failed) < 2:
            failed.append(arguments)
            raise OSError(errno.EIO, "curlCode: 7, Couldn't connect to server")
        return copy_files(*arguments)

    with mock.patch.object(pyarrow.fs, "copy_files", away), messages_to(said.append):
        train_at(there.as_uri(), tiny_store)
    assert [line for line in said if "checkpoint at iteration 7 not written" in line]
    assert_same_results(whole, there)


def test_storage_that_stays_away_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_folder, "PATIENCE", 0.0)
    remote = RemoteFolder((tmp_path / "there").as_uri())
    failing = mock.Mock(side_effect=OSError("away"))
    with (
        mock.patch.object(remote, "store", failing),
        pytest.raises(InputError, match=r"cannot be written \(away\): see"),
        remote.worked_in(),
    ):
        pass


def test_a_model_that_was_stored_in_part_is_none(tmp_path):
    """The run has not finished until its last file is there."""
    there = tmp_path / "there"
    (there / "model").mkdir(parents=True)
    (there / "model/model.safetensors").write_text("half")
    (there / "metrics.csv").write_text("iteration\n7\n")
    remote = RemoteFolder(there.as_uri())
    with remote.opened() as copy:
        assert not RunFolder(copy).finished
        assert list(pd.read_csv(copy / "metrics.csv")["iteration"]) == [7]
    (there / "model/model.json").write_text("{}")
    with remote.opened() as copy:
        assert RunFolder(copy).finished


def test_only_what_changed_is_stored(tmp_path):
    there, copy = tmp_path / "there", tmp_path / "copy"
    copy.mkdir()
    remote = RemoteFolder(there.as_uri())
    (copy / "metrics.csv").write_text("one")
    (copy / "checkpoint-000000007.pt").write_text("state")
    (copy / "checkpoint-000000014.part").write_text("not whole")
    remote.store(copy)
    assert sorted(path.name for path in there.iterdir()) == ["checkpoint-000000007.pt", "metrics.csv"]
    (there / "metrics.csv").write_text("untouched")
    (copy / "checkpoint-000000007.pt").unlink()
    remote.store(copy)
    assert [(path.name, path.read_text()) for path in there.iterdir()] == [("metrics.csv", "untouched")]


def test_a_file_that_is_gone_there_is_deleted(tmp_path):
    """A server may go away between the deletion and its answer."""
    there, copy = tmp_path / "there", tmp_path / "copy"
    copy.mkdir()
    remote = RemoteFolder(there.as_uri())
    (copy / "checkpoint-000000007.pt").write_text("state")
    remote.store(copy)
    (copy / "checkpoint-000000007.pt").unlink()
    (there / "checkpoint-000000007.pt").unlink()
    remote.store(copy)
    assert not list(there.iterdir())


def test_a_checkpoint_is_there_only_with_the_rows_that_it_needs(tmp_path):
    """And the model's last file only with all others."""
    there, copy = tmp_path / "there", tmp_path / "copy"
    (copy / "model").mkdir(parents=True)
    names = ["metrics.csv", "checkpoint-000000007.pt", "model/a.safetensors", "model/model.json", "zoo.parquet"]
    for name in names:
        (copy / name).write_text(name)
    stored, copy_files = [], pyarrow.fs.copy_files

    def noted(source, *rest):
        stored.append(os.path.relpath(source, copy))
        copy_files(source, *rest)

    with mock.patch.object(pyarrow.fs, "copy_files", noted):
        RemoteFolder(there.as_uri()).store(copy)
    assert stored == [
        "metrics.csv", "zoo.parquet", "checkpoint-000000007.pt", "model/a.safetensors", "model/model.json",
    ]  # fmt: skip


def test_a_run_waits_for_an_address_that_does_not_answer_yet(tmp_path, monkeypatch):
    """S3 is asked for a bucket's region before anything else."""
    monkeypatch.setattr(remote_folder.time, "sleep", lambda seconds: None)
    answers = iter([OSError("no region"), pyarrow.fs.FileSystem.from_uri(tmp_path.as_uri())])
    opening = mock.Mock(from_uri=mock.Mock(side_effect=answers))
    with mock.patch.object(pyarrow.fs, "FileSystem", opening), RemoteFolder(tmp_path.as_uri()).opened() as copy:
        assert list(copy.iterdir()) == []


def test_checkpoints_of_a_stopped_run_go(tmp_path):
    for name in ("checkpoint-000000007.pt", "metrics.csv"):
        (tmp_path / name).touch()
    away = mock.Mock(get_file_info=mock.Mock(side_effect=OSError("away")))
    opened = mock.Mock(from_uri=mock.Mock(return_value=(away, "")))
    with mock.patch.object(pyarrow.fs, "FileSystem", opened):
        RemoteFolder(tmp_path.as_uri()).drop_checkpoints()  # no sweep ends for that
    RemoteFolder(tmp_path.as_uri()).drop_checkpoints()
    assert os.listdir(tmp_path) == ["metrics.csv"]


def test_storage_is_tried_beforehand(tmp_path):
    (tmp_path / "file").touch()
    require_storage((tmp_path / "new/folder").as_uri())
    with pytest.raises(InputError, match=r"^cannot write to file:.*: check the address, that its server answers"):
        require_storage((tmp_path / "file/below").as_uri())
