"""Machines as people have them: terminals of other encodings, read-only installs, other people's repositories."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import isod
from tests.data.written_formats import made_set, write_yolo

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
    private = Path(folder).parent
    assert str(private) in (f"/tmp/isod-ray-{os.getuid()}", f"/var/tmp/isod-ray-{os.getuid()}")
    assert private.stat().st_mode & 0o077 == 0  # else the next start would pass it by
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


OF_A_MACHINE = """
import sys, ray, numpy as np
from isod.orchestration.cluster import connect
connect(cpus=1)
double = ray.remote(num_cpus=0)(lambda array: int(array.sum()) * 2)
print(ray.get(double.remote(ray.put(np.ones(30_000_000, np.uint8)))))
print(ray.get_runtime_context().gcs_address)
print(ray.get_runtime_context().get_node_id(), flush=True)
if sys.argv[1:]:
    sys.stdin.read()
"""


def ray_of(folder, *, shell="exec", **environment):
    """Start Ray as a sweep does, on a machine that a shell command prepares; returns what ``OF_A_MACHINE`` prints."""
    words = [sys.executable, "-c", OF_A_MACHINE]
    variables = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment}
    command = ["sh", "-c", f'{shell} "$@"', "sh", *words]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_another_ray_of_this_machine_is_left_alone(tmp_path):
    """RAY_ADDRESS, and what Ray itself notes of a cluster that runs here, do not decide where a sweep runs."""
    words = [sys.executable, "-c", OF_A_MACHINE]
    with subprocess.Popen([*words, "wait"], cwd=tmp_path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}) as other:  # fmt: skip
        assert (answer := other.stdout.readline()) == "60000000\n", answer
        address, node = other.stdout.readline().strip(), other.stdout.readline().strip()
        _, own_address, own_node = ray_of(tmp_path, RAY_ADDRESS=address)
        assert own_address != address
        assert own_node != node
        other.communicate("", timeout=100)


@pytest.mark.slow
def test_a_small_shared_memory(tmp_path):
    """As of a container: 16 MB, where the array alone has 30; the object store is a file on disk then."""
    shell = "mount -t tmpfs -o size=16m tmpfs /dev/shm && exec"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("only root may mount another /dev/shm")
    assert ray_of(tmp_path, shell=f"exec unshare -m sh -c '{shell} \"$@\"' sh")[0] == "60000000"


def test_ray_needs_open_files(tmp_path):
    """Too few are a sentence at once; a soft limit below the machine's own is raised, also for what Ray starts."""
    code = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}))\n{}"
    words = [sys.executable, "-c", code.format(64, 64, RAY)]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert "InputError: a process may open 64 files here (ulimit -n), and Ray needs 256: raise the" in done.stderr
    asked = RAY.replace("6 * 7", "__import__('resource').getrlimit(7)[0]")
    limit = python(code.format(64, 1024, asked), cwd=tmp_path, PYTHONPATH=PACKAGE.parent).decode().split()[0]
    assert limit == "1024"


@pytest.mark.parametrize("files", [64, 256])
def test_prepare_and_train_with_few_file_descriptors(tmp_path, files):
    """Nothing of the two holds a file for each frame."""
    root = tmp_path / "set"
    write_yolo(root, made_set(40, 10))
    for words in (
        ["prepare", "yolo", root, tmp_path / "store"],
        ["train", tmp_path / "store", "--preset", "demo", "--iterations", "4", "--batch-size", "4",
         "--validate-every", "4", "--out", tmp_path / "run"],
    ):  # fmt: skip
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", sys.executable, "-m", "isod", *map(str, words)],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
            timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_a_server_on_this_machine_is_reached_past_a_proxy(monkeypatch):
    """A proxy that does not answer, as of another network, is not asked for it."""
    from isod.tracking.client import check_tracking

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *words): ...

    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "example.org")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        check_tracking(f"http://127.0.0.1:{server.server_port}")
        check_tracking(f"http://localhost:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost"
