"""One run in several processes, the ranks of torch.distributed's default group: what they tell each other in a step.

All ranks hold the same weights. Each trains on its own part of every batch; losses, gradients and the statistics of the
batch normalisation are those of the whole batch. Every rank must make each of these calls, in the same order.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of what every rank gives; no gradient flows through it."""
    torch.distributed.all_reduce(values)
    return values


def highest_of_ranks(value: int, device: torch.device) -> int:
    """The highest of the numbers that the ranks give; waits for it."""
    values = torch.tensor(value, device=device)
    torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return int(values)


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Every parameter's gradient becomes the sum over the ranks, equal on all to the last bit."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = sum_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def gather(values: Tensor) -> Tensor:
    """[ranks, n], what every rank gives; values: [n], on the device of the group's backend."""
    gathered = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, values)
    return torch.stack(gathered)


def gather_step(rows: Tensor, losses: Tensor, unreadable: NDArray[np.bool_]) -> tuple[NDArray, NDArray, NDArray]:
    """A step's numbers of the whole batch, in the order of its slots, from those of the ranks' parts.

    Args:
        rows: [R, b], per-example numbers.
        losses: [L], this rank's share of the batch's losses.
        unreadable: [b] bool.
    Returns:
        [R, B] and [L] float64 and [B] bool, on the host; the losses are summed.
    """
    count, size = rows.shape
    mask = torch.from_numpy(unreadable).to(rows)
    table = gather(torch.cat([rows.flatten(), mask, losses])).cpu().double().numpy()
    parts, shares = np.split(table, [(count + 1) * size], axis=1)
    whole = parts.reshape(-1, count + 1, size).transpose(1, 0, 2).reshape(count + 1, -1)
    return whole[:-1], shares.sum(0), whole[-1] > 0


def state_of_rank_0(state: dict[str, Any] | None = None) -> dict[str, Any]:
    """The state that rank 0 gives, tensors, plain numbers and nests of them; on the others' CPUs."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    sent = [buffer.getvalue()]
    torch.distributed.broadcast_object_list(sent, src=0)
    return torch.load(io.BytesIO(sent[0]), map_location="cpu", weights_only=True)
