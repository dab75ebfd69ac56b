"""What a run trains on, and its name."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from isod.errors import require

if TYPE_CHECKING:
    import torch  # the driver does without


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU. Raises InputError if CUDA is asked for and is not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    require(name == "cpu" or torch.cuda.is_available(), "device must be cpu where torch sees no CUDA GPU", name)
    return torch.device(name)


def cpu_model() -> str:
    """The processor's name, as the kernel has it where that is Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def bfloat16_instructions() -> list[str]:
    """Return the processor's own instructions that bfloat16 convolutions run on, as far as torch knows them."""
    import torch

    asks = {"AMX": "_is_amx_tile_supported", "AVX512_BF16": "_is_avx512_bf16_supported"}
    return [name for name, ask in asks.items() if getattr(torch.cpu, ask, bool)()]


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type != "cuda":
        return cpu_model()
    import torch

    return torch.cuda.get_device_name(device)
