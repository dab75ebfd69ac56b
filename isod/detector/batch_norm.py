"""Batch normalisation over a batch that is spread over several processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

DIMS = (0, 2, 3)  # what the statistics are taken over: images, rows, columns


class _Normalise(torch.autograd.Function):
    """Normalised values, and the mean and variance of the whole batch.

    Only the input is kept for the way back, as in torch's own layer. With L the sum of all ranks' losses, the gradient
    is dL/dx = w/σ · (dy − mean(dy) − x̂ · mean(dy · x̂)), both means over the whole batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        wide = x.to(weight.dtype)  # float32 under autocast
        parts = torch.stack(torch.var_mean(wide, DIMS, correction=0))  # [2, C]
        gathered = [torch.empty_like(parts) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, parts)
        variances, means = torch.stack(gathered, dim=1)  # each [ranks, C]
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)  # the parts are equally large
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.mark_non_differentiable(mean, variance)
        return ((wide - _wide(mean)) * _wide(scale * weight) + _wide(bias)).to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale = ctx.saved_tensors
        dy = gradients[0].to(weight.dtype)
        normalised = (x.to(weight.dtype) - _wide(mean)) * _wide(scale)
        sums = torch.stack([dy.sum(DIMS), (dy * normalised).sum(DIMS)])  # [2, C]
        d_bias, d_weight = sums.clone()  # this rank's share, as for every other parameter
        torch.distributed.all_reduce(sums)
        mean_dy, mean_dy_normalised = sums / (torch.distributed.get_world_size() * x.numel() / x.shape[1])
        dx = _wide(scale * weight) * (dy - _wide(mean_dy) - normalised * _wide(mean_dy_normalised))
        return dx.to(x.dtype), d_weight, d_bias, None


def _wide(channels: Tensor) -> Tensor:
    """[C] as [1, C, 1, 1]."""
    return channels.view(1, -1, 1, 1)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics are those of the whole batch: every rank of torch.distributed's default group
    gives an equally large part of it, and all of them must take part in every forward and backward pass in training.

    ``nn.SyncBatchNorm`` does the same on GPUs and does not run on a CPU. The state is that of ``nn.BatchNorm2d``, and
    in evaluation mode nothing differs from it.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        output, mean, variance = _Normalise.apply(x, self.weight, self.bias, self.eps)
        count = torch.distributed.get_world_size() * x.numel() / x.shape[1]
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return output


def over_all_ranks(module: nn.Module) -> None:
    """Makes every ``nn.BatchNorm2d`` inside of a module a ``GlobalBatchNorm2d`` with the same state."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            over_all_ranks(child)
