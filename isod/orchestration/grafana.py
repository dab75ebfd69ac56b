"""The Grafana dashboard of the metrics that runs export: ``python -m isod.orchestration.grafana`` prints its JSON.

``deploy/grafana/isod.json`` is that output.
"""

from __future__ import annotations

import json
from typing import Any

from isod.orchestration.ray_metrics import METRICS, exported

# Title and Grafana's name of the unit, for each metric; a counter is shown as its rate
PANELS = {
    "isod_steps": ("Training speed", "suffix: steps/s"),
    "isod_images": ("Images trained on", "suffix: images/s"),
    "isod_crops": ("Crops decoded", "suffix: crops/s"),
    "isod_queued_seconds": ("Batches waiting", "suffix: batches"),
    "isod_wait_seconds": ("Time that training waits for batches", "percentunit"),
    "isod_lag": ("Lag", "suffix: steps"),
    "isod_table_version": ("Table version", "suffix: steps"),
    "isod_ess": ("Effective sample size over N", "percentunit"),
}
FILTERS = {"session": "SessionName", "sweep": "sweep", "run": "run"}  # variable of the dashboard → label
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 12, 8  # of a panel, in Grafana's grid of 24 columns


def expression(name: str) -> str:
    """Return the query of a metric's panel: one series per run, whatever processes and machines it has had."""
    chosen = ", ".join(f'{label}=~"${variable}"' for variable, label in FILTERS.items())
    series = f"{exported(name)}{{{chosen}}}"
    if METRICS[name].kind == "counter":
        return f"sum by (sweep, run) (rate({series}[$__rate_interval]))"
    return f"max by (sweep, run) ({series})"


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    return {
        "title": "isod",
        "uid": "isod",
        "tags": ["isod", "ray"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, *(_variable(name, label) for name, label in FILTERS.items())]},
        "panels": [_panel(number, name) for number, name in enumerate(METRICS)],
    }


def _variable(name: str, label: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": f"label_values({exported('isod_steps')}, {label})", "refId": name},
        "refresh": 2,  # whenever the time range changes: sweeps come and go
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panel(number: int, name: str) -> dict[str, Any]:
    title, unit = PANELS[name]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": METRICS[name].description,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"lineWidth": 1}}, "overrides": []},
        "options": {
            "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "mean"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": "A", "datasource": SOURCE, "expr": expression(name), "legendFormat": "{{sweep}} {{run}}"}
        ],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
