"""What a real Ray exports of runs, read as Prometheus reads it; and the dashboard and the page that show it."""

import json
import math
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import promql_parser
import psutil
import pytest
import ray
from mlflow import MlflowClient
from prometheus_client.parser import text_string_to_metric_families

from isod.config.settings import Preset, ResourceConfig
from isod.orchestration import grafana, ray_metrics
from isod.orchestration.ray_metrics import LABELS, METRICS, RunMetrics, exported, labels_of
from isod.orchestration.stream import RayStream
from isod.orchestration.sweep import Sweep, run_sweep
from isod.sampling.samplers import SAMPLERS
from tests.orchestration.test_stream import STEPS, config_with, examples_of, train_on
from tests.training.tiny_run import DETECTOR, tiny_run

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "isod.json"
PATIENCE = 120  # seconds; Ray sends what it has to its exporter every 10


def samples(port, **labels):
    """What the exporter says now: name → [(labels, value) of each process], of the series with these labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = defaultdict(list)
    for sample in (sample for family in families for sample in family.samples):
        if labels.items() <= sample.labels.items():
            found[sample.name].append((sample.labels, sample.value))
    return found


def total(series):
    return sum(value for _, value in series)


def wait_for(port, reached, **labels):
    """The samples, once something holds of them."""
    end = time.monotonic() + PATIENCE
    while not reached(found := samples(port, **labels)):
        assert time.monotonic() < end, dict(found)
        time.sleep(0.5)
    return found


@pytest.fixture
def port(ray_local):
    return ray_local.nodes()[0]["MetricsExportPort"]


def test_the_exporter_has_every_metric_of_a_run_and_every_series_of_the_dashboard(port, tiny_store):
    """20 steps of 8 crops, all applied at the end; and the names and labels that the dashboard's queries ask for."""
    config = config_with(2)
    stream = RayStream(workers=2, cpus_per_worker=0.25)
    began = time.perf_counter()
    try:
        stream.begin(tiny_store, config, examples_of(tiny_store), sweep="twenty steps")
        _, _, summary = train_on(stream)
        took = time.perf_counter() - began
        names = {exported(name) for name in METRICS}
        at_last = {  # each process sends its own ones, when it is its turn
            exported("isod_crops"): STEPS * 8,
            "ray_isod_steps_total": STEPS,
            "ray_isod_images_total": STEPS * 8,
            "ray_isod_table_version": STEPS,
            "ray_isod_lag": 0,
            "ray_isod_ess": summary.effective_sample_size,
        }
        found = wait_for(
            port,
            lambda s: names <= set(s) and all(math.isclose(total(s[name]), value) for name, value in at_last.items()),
            sweep="twenty steps",
        )
    finally:
        stream.close()
    assert 0 < total(found["ray_isod_wait_seconds_total"]) < took
    # at most lag + 1 steps are drawn ahead
    assert 0 < total(found["ray_isod_queued_seconds_total"]) < 3 * took
    for name in names:
        for labels, _ in found[name]:
            assert [labels[label] for label in LABELS] == ["twenty steps", "UIS-seed0", "UIS", "0"]
    queried = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            selector = selected(promql_parser.parse(target["expr"].replace("$__rate_interval", "1m")))
            queried.add(selector.name)
            asked = {matcher.name for matcher in selector.matchers.matchers}
            assert asked | {"sweep", "run"} <= set(found[selector.name][0][0])
    assert queried == names


def selected(expression):
    """The series that a query selects, which is inside functions of one argument."""
    while not isinstance(expression, promql_parser.VectorSelector):
        match expression:
            case promql_parser.AggregateExpr():
                expression = expression.expr
            case promql_parser.Call():
                (expression,) = expression.args
            case promql_parser.MatrixSelector():
                expression = expression.vector_selector
    return expression


def test_a_sweep_counts_the_steps_that_mlflow_has(port, tiny_store, tmp_path):
    sweep = Sweep(
        name="counted",
        store=tiny_store,
        preset=Preset(
            detector=DETECTOR,
            training=tiny_run(iterations=14, validate_every=6).training,
            resources=ResourceConfig(decode_workers=1, cpus_per_worker=0.25, cpus_per_trial=0.75),
            seeds=1,
        ),
        samplers=[SAMPLERS["UIS"]],
        seeds=1,
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        experiment="counted",
        out=tmp_path,
    )
    names = {exported(name) for name in METRICS}
    found = {}

    def complete(series):
        return names <= set(series) and total(series["ray_isod_steps_total"]) == 14

    def look(sweep, sampler):  # while the run's processes live: what they have not sent goes with them
        found.update(wait_for(port, complete, sweep="counted", run="UIS-seed0"))

    result = run_sweep(sweep, after_run=look)
    client = MlflowClient(sweep.tracking_uri)
    experiment = client.get_experiment_by_name("counted").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{result.parent_run_id}'")
    last = client.get_metric_history(run.info.run_id, "sampler/ess")[-1]
    steps, crops = last.step, last.step * int(run.data.params["training.batch_size"])
    assert (steps, crops) == (14, 112)
    assert total(found[exported("isod_steps")]) == steps
    assert total(found[exported("isod_images")]) == total(found[exported("isod_crops")]) == crops
    assert total(found[exported("isod_table_version")]) == steps
    assert math.isclose(total(found[exported("isod_ess")]), last.value)


@pytest.mark.parametrize(("every", "steps"), [(5.0, 1), (1.0, 5)])
def test_ray_is_called_by_the_clock_and_not_by_the_step(monkeypatch, every, steps):
    """10 seconds of training: what reaches Ray is the sum, and the last value of a gauge, at most every 5 seconds."""
    now, counted, values = [0.0], [], []
    monkeypatch.setattr(ray_metrics, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(ray_metrics, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(ray_metrics, "_counter", lambda name: Kept("inc", counted))
    monkeypatch.setattr(ray_metrics, "_gauge", lambda name: Kept("set", values))
    metrics = RunMetrics(labels_of("s", tiny_run("UIS")))
    for step in range(1, int(10 / every) + 1):
        now[0] = step * every
        metrics.add("isod_steps", 1)
        metrics.set("isod_table_version", step)
        metrics.update()
    assert counted == [steps, steps]
    assert values == [steps, 2 * steps]
    metrics.add("isod_steps", 3)
    metrics.update(last=True)
    assert counted[2:] == [3]


class Kept:
    """A metric of Ray that keeps what it is given."""

    def __init__(self, method, given):
        setattr(self, method, lambda value, labels: given.append(value))


def test_what_is_recorded_of_a_step_takes_microseconds():
    """A step of the smallest preset takes ten milliseconds and more: this is below a thousandth of it."""
    metrics = RunMetrics(labels_of("s", tiny_run("UIS")))
    times = []
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(1000):
            metrics.add("isod_wait_seconds", 1e-3)
            metrics.add("isod_queued_seconds", 1e-3)
            metrics.add("isod_steps", 1)
            metrics.add("isod_images", 8)
            metrics.update()
        times.append((time.perf_counter() - began) / 1000)
    assert np.min(times) < 1e-5


def test_the_dashboard_is_the_generated_one_and_has_a_panel_for_each_metric():
    content = json.loads(DASHBOARD.read_text())
    assert content == grafana.dashboard(), "python -m isod.orchestration.grafana > deploy/grafana/isod.json"
    assert [panel["description"] for panel in content["panels"]] == [m.description for m in METRICS.values()]
    places = [tuple(panel["gridPos"].values()) for panel in content["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in content["panels"]}) == len(METRICS)
    variables = {variable["name"] for variable in content["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(content["panels"])))
    assert used == variables | {"__rate_interval"}


def test_the_page_of_the_metrics_has_a_row_for_each():
    rows = re.findall(r"^\| `(ray_isod_\w+)` \| (\w+), ([^|]+) \| ([^|]+) \|$",
                      (ROOT / "docs" / "dashboard.md").read_text(), re.MULTILINE)  # fmt: skip
    assert rows == [(exported(name), m.kind, m.unit, m.description) for name, m in METRICS.items()]


# --- isod sweep --dashboard ------------------------------------------------------------------------------------------


SAID = r"^Ray's dashboard: (http://127\.0\.0\.1:(\d+)), which asks for what `ray get-auth-token` prints$"
TOKEN = "0123456789abcdef" * 4


def sweep_command(store, out, *options):
    return [sys.executable, "-m", "isod", "sweep", "--store", store, "--preset", "demo", "--samplers", "baseline",
            "--seeds", "1", "--iterations", "14", "--batch-size", "8", "--validate-every", "7", "--width", "0.125",
            "--out", str(out), *options]  # fmt: skip


def listeners(root):
    """(address, port) on which a process and its descendants listen."""
    found = set()
    for process in (root, *root.children(recursive=True)):
        try:
            found |= {tuple(s.laddr) for s in process.net_connections("inet") if s.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    return found


@pytest.mark.slow  # a Ray of its own, with all that its dashboard starts
@pytest.mark.timeout(500)
def test_a_sweep_with_a_dashboard_serves_it_on_loopback_alone(tiny_store, tmp_path):
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            sweep_command(tiny_store, tmp_path / "out", "--dashboard"),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "RAY_AUTH_TOKEN": TOKEN},
        )
    try:
        end = time.monotonic() + 300
        while not (said := re.findall(SAID, log.read_text(), re.M)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        ((url, port),) = said
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert "<title>Ray Dashboard</title>" in opener.open(url, timeout=60).read().decode()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            opener.open(f"{url}/api/version", timeout=60)
        asked = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {TOKEN}"})
        assert json.load(opener.open(asked, timeout=60))["ray_version"] == ray.__version__
        bound = listeners(psutil.Process(process.pid))
        assert ("127.0.0.1", int(port)) in bound
        assert {address for address, _ in bound} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
        assert process.wait(300) == 0, log.read_text()
    finally:
        process.kill()


# Runs alone in a process: the tests' own Ray is another one.
ATTACHED = """
import urllib.request
from ray.cluster_utils import Cluster
from isod.orchestration.cluster import open_dashboard

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True})
url = open_dashboard(cluster.address)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(url, "<title>Ray Dashboard</title>" in opener.open(url, timeout=60).read().decode())
"""


@pytest.mark.slow  # another such Ray
@pytest.mark.timeout(400)
def test_the_address_of_a_cluster_s_own_dashboard_is_found():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", ATTACHED], env=environment | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"},
        capture_output=True, text=True, timeout=360, check=False,
    )  # fmt: skip
    assert re.search(r"^http://[\d.]+:\d+ True$", done.stdout, re.MULTILINE), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_sweep_without_ray_s_metrics_ends_as_ever(tiny_store, tmp_path):
    """No metrics are collected anywhere in that Ray."""
    done = subprocess.run(
        sweep_command(tiny_store, tmp_path / "out"),
        env=os.environ | {"RAY_enable_metrics_collection": "0"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_ray_that_runs_without_a_dashboard_is_told_in_a_sentence(ray_local, tiny_store, tmp_path, capsys):
    from isod.cli.main import main

    assert main(sweep_command(tiny_store, tmp_path, "--dashboard")[3:]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("isod: no dashboard of the Ray that runs already answers from here (")
    assert not list(tmp_path.rglob("mlflow.db"))


def test_a_package_that_the_dashboard_lacks_is_named(monkeypatch, tiny_store, tmp_path, capsys):
    from isod.cli.main import main

    monkeypatch.delitem(sys.modules, "ray.dashboard.optional_deps", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp_cors", None)  # importing it raises ModuleNotFoundError
    assert main(sweep_command(tiny_store, tmp_path, "--dashboard")[3:]) == 2
    assert capsys.readouterr().err == "isod: Ray's dashboard needs aiohttp_cors: pip install 'isod[grid]'\n"
