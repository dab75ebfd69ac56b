"""What a sweep and its runs ran on, by name."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # the driver does without


def cpu_model() -> str:
    """The processor's name, as the kernel has it where that is Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type != "cuda":
        return cpu_model()
    import torch

    return torch.cuda.get_device_name(device)
