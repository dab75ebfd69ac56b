"""Fixtures that start something expensive once per session."""

import os
import shutil
import signal
import subprocess

import hypothesis
import pytest

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for one another crawl beside other tests

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST_FIRST = ("ray", "faults", "end to end")  # groups that one process would be left alone with at the end


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """Two processes share the tests, file by file; files that need Ray go to the same one, which starts it once.

    But not those of the faults: they mostly wait, and would make that one process twice as long as the other.
    """
    with_ray = {item.path for item in items if "ray_local" in item.fixturenames}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            group = "faults" if "faults" in item.path.parts else "ray" if item.path in with_ray else item.path.stem
            item.add_marker(pytest.mark.xdist_group(group))

    def place(item):
        group = item.get_closest_marker("xdist_group").args[0]
        return LONGEST_FIRST.index(group) if group in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def ctrl_c_is_pythons():
    """A handler of SIGINT that a test left behind would take the Ctrl-C of another, in another file: Tune's does."""
    yield
    left = signal.signal(signal.SIGINT, signal.default_int_handler)
    assert left is signal.default_int_handler, f"left behind as the handler of SIGINT: {left}"


@pytest.fixture(scope="session")
def ray_local():
    """Ray on this machine with two CPUs, loopback only, shared by every test that needs it."""
    import ray

    from isod.orchestration.cluster import connect

    started_here = not ray.is_initialized()
    connect(cpus=2)
    yield ray
    if started_here:
        ray.shutdown()


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory):
    """Demo data in ZOD's layout: 64 training and 16 validation frames."""
    from isod.data.demo.zod_layout import write_demo

    root = tmp_path_factory.mktemp("demo") / "zod"
    write_demo(root, frames=80, seed=0)
    return root


@pytest.fixture(scope="session")
def tiny_store(demo_root, tmp_path_factory):
    """Path of a crop store made of ``demo_root``: 64 train and 16 val crops of 160×48."""
    from isod.data.prepare.job import prepare_demo

    store = str(tmp_path_factory.mktemp("store") / "demo")
    prepare_demo(demo_root, store, resize=(160, 48), map_chunks=map)
    return store


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB, and how to give it more room: (folder, resize), the latter of "8m" for example."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)
    subprocess.run(["umount", "-l", str(folder)], check=True)
