"""The fused updates in plain float64 PyTorch: combine, then the optimizer's formulas one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcl_kernels._gradients import Grads
from pcl_kernels.combine.reference import combine


def _combined(grads: Grads, weights: Tensor | Sequence[float]) -> list[Tensor | None]:
    rows = [[g] if isinstance(g, Tensor) else list(g) for g in grads]
    d = combine([[None if g is None else g.double() for g in row] for row in rows], weights)
    return [d] if isinstance(d, Tensor) else d


def combine_sgd_(
    params: Sequence[Tensor],
    grads: Grads,
    weights: Tensor | Sequence[float],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    momentum_buffers: Sequence[Tensor] | None = None,
    first_step: bool = False,
) -> None:
    """b ← μ b + (1 - τ) (d + w θ), θ ← θ - γ b; Nesterov: θ ← θ - γ (d + w θ + μ b)."""
    with torch.no_grad():
        for p, d in enumerate(_combined(grads, weights)):
            if d is None:
                continue
            x = params[p].double()
            d = d + weight_decay * x
            if momentum_buffers is not None and momentum:
                b = d if first_step else momentum * momentum_buffers[p].double() + (1 - dampening) * d
                momentum_buffers[p].copy_(b)
                d = d + momentum * b if nesterov else b
            params[p].copy_(x - lr * d)


def combine_adamw_(
    params: Sequence[Tensor],
    grads: Grads,
    weights: Tensor | Sequence[float],
    *,
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    decoupled: bool = True,
) -> None:
    """m ← β₁m + (1-β₁)d, v ← β₂v + (1-β₂)d², θ ← (1-γw)θ - γ m̂ / (√v̂ + ε); coupled: d + wθ in place of d."""
    with torch.no_grad():
        for p, d in enumerate(_combined(grads, weights)):
            if d is None:
                continue
            x = params[p].double()
            if decoupled:
                x = x * (1 - lr * weight_decay)
            else:
                d = d + weight_decay * x
            m = betas[0] * exp_avgs[p].double() + (1 - betas[0]) * d
            v = betas[1] * exp_avg_sqs[p].double() + (1 - betas[1]) * d * d
            exp_avgs[p].copy_(m)
            exp_avg_sqs[p].copy_(v)
            corrected = (v / (1 - betas[1] ** step)).sqrt() + eps
            params[p].copy_(x - lr * (m / (1 - betas[0] ** step)) / corrected)
