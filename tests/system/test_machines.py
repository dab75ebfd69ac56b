"""Machines as people have them: terminals of other encodings, read-only installs, other people's repositories."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import isod

PACKAGE = Path(isod.__file__).parent


def python(code, *arguments, cwd, **environment):
    """Run a program; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def copied_package(folder):
    """Copy isod into a folder; returns the folder."""
    shutil.copytree(PACKAGE, folder / "isod", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


SAY = "import sys; from isod.cli.main import exit_cleanly; sys.exit(exit_cleanly('isod', [], lambda: print('64×32 行人 é')))"  # noqa: E501


def test_what_a_terminal_cannot_show_is_replaced(tmp_path):
    for encoding, shown in (("ascii", b"64?32 ?? ?\n"), ("latin-1", b"64\xd732 ?? \xe9\n")):
        assert python(SAY, cwd=tmp_path, PYTHONPATH=PACKAGE.parent, PYTHONIOENCODING=encoding) == shown


TABLE = """
import numpy as np, sys
from isod.sampling import ImportanceTable
from isod.sampling.samplers import SAMPLERS
import isod.sampling.kernels.tree, isod.evaluation.matching, isod.sampling.kernels.compiled as compiled
print(isod.sampling.kernels.tree.__file__, compiled._config.CACHE_DIR)
"""


def test_a_read_only_install_and_home(tmp_path):
    """Files in place of the folders that numba would write to, as permissions do not bind root."""
    root = copied_package(tmp_path)
    for folder in {path.parent for path in (root / "isod").rglob("*.py")}:
        (folder / "__pycache__").write_text("a file")
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache", "PYTHONPATH": root, "NUMBA_CACHE_DIR": ""}
    said = python(TABLE, cwd=tmp_path, TMPDIR=elsewhere, **nowhere).decode()
    cache = elsewhere / f"isod-numba-{os.getuid()}"
    assert said.split() == [str(root / "isod/sampling/kernels/tree.py"), str(cache)]
    assert cache.stat().st_mode & 0o077 == 0
    cache.chmod(0o777)  # somebody else may have put files there: no cache then
    said = python(TABLE, cwd=tmp_path, TMPDIR=elsewhere, **nowhere).decode()
    assert said.split() == [str(root / "isod/sampling/kernels/tree.py")]


COMMIT = "from isod.version import source_commit; print(source_commit())"


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_isod(tmp_path):
    """In a repository that does not track isod's files, as an environment within it, its commit is not isod's."""
    root = copied_package(tmp_path / "theirs")
    git(root, "init", "-q")
    (root / "their.py").write_text("")
    git(root, "add", "their.py")
    git(root, "commit", "-qm", "theirs")
    theirs = git(root, "rev-parse", "HEAD")

    def commit(**environment):
        return python(COMMIT, cwd=root, PYTHONPATH=root, **environment).decode().strip()

    record = root / "isod-9.9.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: isod\nVersion: 9.9\n")
    assert commit() == "isod 9.9"
    assert commit(GIT_DIR=root / ".git") == "isod 9.9"  # as in a hook of theirs
    (record / "direct_url.json").write_text(json.dumps({"url": "x", "vcs_info": {"vcs": "git", "commit_id": "abc1"}}))
    assert commit() == "abc1"
    git(root, "add", "isod")
    assert commit() == theirs + "-dirty"  # now it is their copy of isod
    git(root, "commit", "-qm", "vendored")
    assert commit() == git(root, "rev-parse", "HEAD")


RAY = """
import sys, ray
from isod.orchestration.cluster import connect
connect(cpus=1)
print(ray.get(ray.remote(lambda: 6 * 7).remote()), ray._private.worker.global_worker.node.get_session_dir_path())
"""


def test_ray_starts_where_the_folder_for_temporary_files_has_a_long_name(tmp_path):
    """As Slurm's; and whatever the environment says of clusters and proxies, which a Ray of this machine needs not."""
    long = tmp_path / ("job-" + "x" * 100)
    long.mkdir()
    variables = {"TMPDIR": long, "RAY_ADDRESS": "10.255.255.1:6379", "http_proxy": "http://127.0.0.1:9",
                 "https_proxy": "http://127.0.0.1:9", "PYTHONPATH": PACKAGE.parent}  # fmt: skip
    answer, session = python(RAY, cwd=tmp_path, **variables).decode().split()
    assert answer == "42"
    folder, _, name = session.rpartition("/")
    assert folder in (f"/tmp/isod-ray-{os.getuid()}", f"/var/tmp/isod-ray-{os.getuid()}")
    assert name.startswith("session_")
    shutil.rmtree(session, ignore_errors=True)


def test_a_fault_of_rays_start_is_a_sentence(tmp_path, monkeypatch):
    from isod.errors import InputError
    from isod.orchestration import cluster

    def init(*arguments, **options):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    with pytest.raises(InputError, match=r"^Ray did not start \(OSError: \[Errno 24\] Too many open files\): its logs"):
        cluster.connect()
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: "/" + "x" * 90)
    monkeypatch.setattr(cluster, "private_folder", lambda path: None)
    with pytest.raises(InputError, match=r"is too long for Ray's sockets: set TMPDIR to one of at most \d+ bytes"):
        cluster.connect()
