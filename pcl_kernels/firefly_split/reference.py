"""Both halves of every split neuron in plain float64 PyTorch, each evaluated with its own weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda t: t,
    "relu": torch.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gaussian": lambda t: torch.exp(-t * t / 2),
}


def channels(
    epsilon: Tensor, scale: Tensor | None, shift: Tensor | None, mirror: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scale, shift and both steps of every channel, ε and mirror ε, in float64."""
    plus = epsilon.double()
    minus = -plus if mirror is None else mirror.double() * plus
    s = torch.ones_like(plus) if scale is None else scale.double()
    return s, torch.zeros_like(plus) if shift is None else shift.double(), plus, minus


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """torch's, which refuses a layer of no neurons: it gets one that is left out again."""
    if len(weight):
        return F.conv2d(x, weight, bias, stride, padding, dilation)
    one = torch.cat([weight, weight.new_zeros(1, *weight.shape[1:])])
    bias = None if bias is None else torch.cat([bias, bias.new_zeros(1)])
    return F.conv2d(x, one, bias, stride, padding, dilation)[:, :0]


def firefly_split(
    a: Tensor,
    d: Tensor,
    epsilon: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    mirror: Tensor | None = None,
    activation: str = "relu",
) -> Tensor:
    """(act(s (a + ε d) + t) + act(s (a + mirror ε d) + t)) / 2, channel by channel."""
    s, t, plus, minus = (v.view(-1, *[1] * (a.dim() - 2)) for v in channels(epsilon, scale, shift, mirror))
    act = ACTIVATIONS[activation]
    wide_a, wide_d = a.double(), d.double()
    one, other = (act(s * (wide_a + step * wide_d) + t) for step in (plus, minus))
    return ((one + other) / 2).to(a.dtype)


def firefly_split_forward(
    x: Tensor,
    weight: Tensor,
    delta: Tensor,
    epsilon: Tensor,
    bias: Tensor | None = None,
    delta_bias: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    mirror: Tensor | None = None,
    activation: str = "relu",
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
) -> Tensor:
    """(act(s layer(x; W + ε Δ) + t) + act(s layer(x; W + mirror ε Δ) + t)) / 2 for a Linear layer or a Conv2d."""
    s, t, plus, minus = channels(epsilon, scale, shift, mirror)
    b, db = (torch.zeros_like(s) if v is None else v.double() for v in (bias, delta_bias))
    wide_x, w, dw = x.double(), weight.double(), delta.double()

    def half(step: Tensor) -> Tensor:
        rows = step.view(-1, *[1] * (weight.dim() - 1))
        if weight.dim() == 2:
            return ACTIVATIONS[activation](s * F.linear(wide_x, w + rows * dw, b + step * db) + t)
        pre = conv2d(wide_x, w + rows * dw, b + step * db, stride, padding, dilation)
        return ACTIVATIONS[activation](s.view(-1, 1, 1) * pre + t.view(-1, 1, 1))

    return ((half(plus) + half(minus)) / 2).to(x.dtype)
