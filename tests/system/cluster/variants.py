"""The variants of cluster.yaml that its comments describe, as texts.

    python -m tests.system.cluster.variants HEAD KEY SETUP WORKER …

prints the on-premise variant for these addresses and this ssh key, with the setup commands replaced by one.
"""

import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "cluster.yaml").read_text()


def between(mark: str) -> str:
    """The lines of cluster.yaml from ">>> mark" to "<<< mark", without the two."""
    match = re.search(rf"^# >>> {mark}\n(.*?)^# <<< {mark}\n", TEXT, re.DOTALL | re.MULTILINE)
    assert match, f"cluster.yaml has no part marked {mark!r}"
    return match[1]


def uncomment(text: str) -> str:
    return re.sub(r"^# ?", "", text, flags=re.MULTILINE)


def on_premise() -> str:
    """cluster.yaml edited as its own comment says."""
    local = between("on premise")
    return TEXT.replace(between("AWS"), "").replace(local, uncomment(local))


def spot() -> str:
    """cluster.yaml with the two lines that ask for spot machines uncommented."""
    text, changed = re.subn(r"# (InstanceMarketOptions:\n +)# (  MarketType: spot)", r"\1\2", TEXT)
    assert changed == 1
    return text


VARIANTS = {"AWS": TEXT, "spot": spot(), "on premise": on_premise()}


def on_premise_for(head: str, workers: list[str], *, key: str, setup: str) -> str:
    """The on-premise variant with its values filled in, and one setup command instead of installing from afar."""
    config = yaml.safe_load(on_premise())
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": key}
    config["setup_commands"] = [setup]
    return yaml.safe_dump(config, sort_keys=False)


if __name__ == "__main__":
    print(on_premise_for(sys.argv[1], sys.argv[4:], key=sys.argv[2], setup=sys.argv[3]), end="")
