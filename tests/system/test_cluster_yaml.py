"""cluster.yaml, without a cloud: Ray's own validation, what it exposes and installs, and its on-premise variant."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from isod.orchestration import cluster
from isod.tracking.server import HOST
from tests.system.cluster.variants import ROOT, TEXT, VARIANTS

COMMAND_KEYS = [
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
]


def prepared(text: str) -> dict[str, Any]:
    config: dict[str, Any] = prepare_config(yaml.safe_load(text))
    return config


def commands(config: dict[str, Any]) -> list[str]:
    return [command for key in COMMAND_KEYS for command in config.get(key, [])]


@pytest.mark.parametrize("variant", VARIANTS)
def test_ray_accepts_it_and_drops_nothing(variant):
    raw = yaml.safe_load(VARIANTS[variant])
    config = prepared(VARIANTS[variant])
    validate_config(config)
    assert raw.keys() <= config.keys()  # Ray drops some keys that it no longer reads without a word
    ours = raw["setup_commands"]  # Ray's own would install a nightly Ray
    assert config["head_setup_commands"] == config["worker_setup_commands"] == ours


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_command_is_well_formed_shell(variant):
    for command in commands(prepared(VARIANTS[variant])):
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_head_without_gpu_and_workers_that_scale_from_zero():
    config = prepared(TEXT)
    head = config["available_node_types"][config["head_node_type"]]
    worker = config["available_node_types"]["gpu_worker"]
    assert head["resources"] == {"CPU": 0}
    assert head["node_config"]["InstanceType"][0] in "cmrt"  # EC2 families without a GPU
    assert worker["node_config"]["InstanceType"][0] in "gp"  # and with one
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == config["max_workers"] > 1
    assert "InstanceMarketOptions" not in worker["node_config"]
    spot_worker = prepared(VARIANTS["spot"])["available_node_types"]["gpu_worker"]["node_config"]
    assert spot_worker == worker["node_config"] | {"InstanceMarketOptions": {"MarketType": "spot"}}


@pytest.mark.parametrize("variant", VARIANTS)
def test_mlflow_and_dashboard_listen_on_loopback_of_the_head_alone(variant):
    config = prepared(VARIANTS[variant])
    servers = [command for command in commands(config) if "isod.tracking.server" in command]
    assert len(servers) == 1
    assert servers[0] in config["head_start_ray_commands"]
    assert HOST == "127.0.0.1"  # where that module listens
    assert re.findall(r"--dashboard-host[= ](\S+)", " ".join(commands(config))) == ["127.0.0.1"]
    assert "0.0.0.0" not in VARIANTS[variant]


def test_security_group_opens_nothing_beside_ssh():
    # Ray's own rules for a group that it makes: port 22 from anywhere, everything among members. IpPermissions add.
    assert "IpPermissions" not in yaml.safe_load(TEXT)["provider"]["security_group"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_ray_asks_every_caller_for_the_secret(variant):
    starts = [command for command in commands(prepared(VARIANTS[variant])) if "ray start" in command]
    assert len(starts) == 2
    assert all(command.startswith("export RAY_AUTH_MODE=token; ") for command in starts)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_machine_installs_the_pinned_packages(variant):
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    installs = [command for command in prepared(VARIANTS[variant])["setup_commands"] if "pip install" in command]
    assert len(installs) == 1
    assert f'"ray[default]=={pinned["ray"]}"' in installs[0]
    assert "-c constraints.txt" in installs[0]
    assert "boto3" in pinned  # the head's autoscaler talks to AWS with it


def test_files_sent_to_the_machines_exist_and_are_what_an_installation_needs():
    mounts = yaml.safe_load(TEXT)["file_mounts"]
    secret = "~/.ray/auth_token"
    assert mounts.pop(secret) == secret  # where Ray looks for it, here and there
    assert f"chmod 600 {secret}" in prepared(TEXT)["setup_commands"]
    assert all(remote == f"~/isod/{local}" for remote, local in mounts.items())
    assert {"isod", "sweeps", "pyproject.toml", "constraints.txt", "README.md"} <= set(mounts.values())
    for local in set(mounts.values()) - {".git", "README.md"}:
        assert (ROOT / local).exists(), local


@pytest.mark.parametrize("variant", VARIANTS)
def test_shared_storage_is_checked_before_ray_starts(variant):
    config = prepared(VARIANTS[variant])
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert config[key][0] == "mountpoint -q /mnt/isod"
    assert "isod.tracking.server /mnt/isod/mlflow" in " ".join(config["head_start_ray_commands"])


@pytest.mark.parametrize(
    "line", ["initial_workers: 1", "autoscaling_mode: default", "target_utilization_fraction: 0.8"]
)
def test_validation_would_notice_a_key_that_ray_no_longer_knows(line):
    with pytest.raises(Exception, match=line.split(":")[0]):
        validate_config(prepared(f"{TEXT}\n{line}\n"))


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"node:127.0.0.1": 1.0, "node:__internal_head__": 1.0, "CPU": 2.0}, "Xeon: 2 CPUs, 0 GPUs"),
        (
            {"node:10.0.0.1": 1.0, "node:10.0.0.2": 1.0, "node:__internal_head__": 1.0, "CPU": 32.0, "GPU": 1.5}
            | {"accelerator_type:H100": 1.0},
            "2 nodes: 32 CPUs, 1.5 GPUs (H100); this one Xeon",
        ),
    ],
    ids=["one", "two"],
)
def test_a_sweep_says_what_it_ran_on(monkeypatch, resources, text):
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: resources)
    monkeypatch.setattr(cluster, "cpu_model", lambda: "Xeon")
    assert cluster.machine() == text
