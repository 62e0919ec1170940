"""z = W a + c on the last axis of a ``(rows, ..., in)``: dW = sum_rows delta aᵀ, dc = sum_rows delta."""

from torch import Tensor, nn
from torch.nn import functional as F

from pcl.gradients.rows import Rows
from pcl.gradients.rules.rule import Rule, Saved, Small, block_sums


def _forward(layer: nn.Linear, x: Tensor, rows: Rows) -> tuple[Tensor, Saved]:
    z = F.linear(x, layer.weight, layer.bias)
    return z, (x.to(z.dtype),)  # under autocast the product that dW is has the precision of z


def _backward(layer: nn.Linear, saved: Saved, delta: Tensor, rows: Rows, needed: bool) -> tuple[Tensor | None, Small]:
    small: Small = {}
    if layer.bias is not None:
        small["bias"] = block_sums(delta.reshape(len(delta), -1, delta.shape[-1]), rows)
    return delta @ layer.weight.to(delta.dtype) if needed else None, small


def _weight(layer: nn.Linear, a: Tensor, delta: Tensor, channels: slice) -> Tensor:
    delta = delta[..., channels]
    return delta.reshape(-1, delta.shape[-1]).T @ a.reshape(-1, a.shape[-1])


LINEAR = Rule(_forward, _backward, _weight)
