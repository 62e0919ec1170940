"""A LayerNorm whose width may grow."""

import torch
from torch import Tensor, nn

from pcl.models.residual import widened


class WeightedLayerNorm(nn.LayerNorm):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, with a share w_i of every channel in mean and variance.

    mean = sum_i w_i x_i and variance = sum_i w_i (x_i - mean)^2 over the last dimension, sum_i w_i = 1. All w_i = 1/m
    is nn.LayerNorm. Its width can grow and its function stay: both halves of a channel have half of its share, a new
    channel has none.

    Args:
        width: number of channels.
        eps, elementwise_affine: as in nn.LayerNorm.
    """

    weights: Tensor

    def __init__(self, width: int, eps: float = 1e-5, elementwise_affine: bool = True) -> None:
        super().__init__(width, eps, elementwise_affine)
        self.register_buffer("weights", uniform(self))

    def forward(self, x: Tensor) -> Tensor:
        wide = widened(x)
        shares = self.weights.to(wide.dtype)
        centred = wide - (wide * shares).sum(dim=-1, keepdim=True)
        variance = (shares * centred.square()).sum(dim=-1, keepdim=True)
        y = centred * (variance + self.eps).rsqrt()
        if self.weight is not None:
            y = y * self.weight
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)


def uniform(norm: nn.LayerNorm) -> Tensor:
    """The shares that every channel has in a plain LayerNorm."""
    (width,) = norm.normalized_shape
    like = torch.empty(0) if norm.weight is None else norm.weight.detach()
    return like.new_full((width,), 1 / width)
