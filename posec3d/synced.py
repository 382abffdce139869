"""Normalisation over the batches of all training workers, where one worker sees too few samples for statistics."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

FEW = 8
"""Samples of a worker at a time under which its own statistics are too noisy."""


def synced(model: nn.Module, device: torch.device | str) -> nn.Module:
    """The model with every BatchNorm normalising over all workers; weights and their names stay what they are.

    Args:
        model: changed in place.
        device: torch's own layers are for GPUs alone.
    """
    if torch.device(device).type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            setattr(model, name, _Synced(child))
        else:
            synced(child, device)
    return model


class _Sum(torch.autograd.Function):
    """The sum over all workers; its gradient is that of each worker's use of it, summed too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class _Synced(_BatchNorm):
    """BatchNorm of any number of dimensions over all workers, on any device."""

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum)
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.train(layer.training)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Of any."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (N, C, ...)."""
        if not self.training:
            return super().forward(input)
        others = [d for d in range(input.dim()) if d != 1]
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        variance, mean = torch.var_mean(wide, others, correction=0)
        count = mean.new_full((1,), input.numel() // input.shape[1])
        summed = _Sum.apply(torch.cat([mean * count, count]))
        together, total = summed[:-1] / summed[-1], summed[-1].detach()
        # By deviations from the mean of all: a difference of large squares would lose its digits.
        spread = _Sum.apply(count * (variance + (mean - together) ** 2)) / total
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(together, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(spread * total / (total - 1), self.momentum)  # type: ignore[union-attr, arg-type]
        scale = self.weight * torch.rsqrt(spread + self.eps)
        shape = [1, -1] + [1] * (input.dim() - 2)
        return (input * scale.view(shape) + (self.bias - together * scale).view(shape)).to(input.dtype)
