"""The truth for `simplex_qp`: an interior point method in plain float64 PyTorch.

It shares nothing with the compiled solver but the statement of the problem: no active set, no pivots, no
penalty for the equality. Good to about 1e-9 of the best single task in the objective, unless gradients cancel
that are 1e6 times longer than their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 60  # a fixed count: each shrinks the complementarity about tenfold until rounding stops it


def simplex_qp(gram: Tensor, sigma: Tensor | None = None, *, lower: Tensor | None = None) -> Tensor:
    """min λᵀGλ subject to Σ λ_iσ_i = 1, λ >= lower (0 where None).

    gram (k, k) or (B, k, k), sigma and lower (k,) or (B, k) -> λ (k,) or (B, k), float64.
    """
    if gram.dim() == 2:
        return simplex_qp(gram.unsqueeze(0), sigma, lower=lower).squeeze(0)
    g = gram.double()
    batch, k, _ = g.shape
    s = torch.ones(k, dtype=torch.float64) if sigma is None else sigma.double()
    low = torch.zeros(k, dtype=torch.float64) if lower is None else lower.double()
    s, low = s.expand(batch, k), low.expand(batch, k)

    # λ = low + d·x·size, with unit diagonal and the largest entry of a one
    diagonal = g.diagonal(dim1=-2, dim2=-1)
    d = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).rsqrt()
    size = 1 / (s * d).amax(-1, keepdim=True)
    c = g * d.unsqueeze(-1) * d.unsqueeze(-2)
    a = s * d * size
    room = 1 - (low * s).sum(-1, keepdim=True)
    linear = (g @ low.unsqueeze(-1)).squeeze(-1) * d / size

    # Cx + linear - y·a - w = 0, aᵀx = room, x_i·w_i = 0, x >= 0, w >= 0
    x = (room / a.sum(-1, keepdim=True)).expand(batch, k).clone()
    cx = (c @ x.unsqueeze(-1)).squeeze(-1) + linear
    y = torch.zeros_like(room)
    w = (1 + cx.abs()).clone()
    for _ in range(ITERATIONS):
        dual = (c @ x.unsqueeze(-1)).squeeze(-1) + linear - y * a - w
        primal = (a * x).sum(-1, keepdim=True) - room
        mu = (x * w).mean(-1, keepdim=True)
        system = torch.cat(
            [
                torch.cat([c + torch.diag_embed(w / x), a.unsqueeze(-1)], -1),
                torch.cat([a, torch.zeros_like(y)], -1).unsqueeze(-2),
            ],
            -2,
        )

        dx, dw, _ = _newton(system, x, w, torch.zeros_like(x), dual, primal)
        affine = ((x + _longest(x, dx) * dx) * (w + _longest(w, dw) * dw)).mean(-1, keepdim=True)
        target = (affine / mu).clamp(max=1) ** 3 * mu - dx * dw
        dx, dw, dy = _newton(system, x, w, target, dual, primal)
        reach = 0.995 * torch.minimum(_longest(x, dx), _longest(w, dw))
        moved = (
            (x + reach * dx).clamp_min(1e-300),
            (w + reach * dw).clamp_min(1e-300),
            y + reach * dy,
        )
        # a system that has become singular is as close as float64 gets
        fine = torch.stack([m.isfinite().all(-1) for m in moved]).all(0).unsqueeze(-1)
        x, w, y = (torch.where(fine, new, old) for new, old in zip(moved, (x, w, y), strict=True))
    lam = d * x * size
    return low + lam * room / (lam * s).sum(-1, keepdim=True)


def _newton(
    system: Tensor, x: Tensor, w: Tensor, target: Tensor, dual: Tensor, primal: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The step of (x, w, y) towards x_i·w_i = target_i; NaN where the system is singular."""
    right = torch.cat([target / x - w - dual, -primal], -1)
    solution, singular = torch.linalg.solve_ex(system, right.unsqueeze(-1))
    step = torch.where((singular != 0)[:, None], torch.nan, solution.squeeze(-1))
    dx, dy = step[..., :-1], -step[..., -1:]
    return dx, (target - w * dx) / x - w, dy


def _longest(x: Tensor, dx: Tensor) -> Tensor:
    """The longest step, up to 1/0.995, that keeps x + step·dx >= 0."""
    ratio = torch.where(dx < 0, -x / dx, torch.full_like(x, torch.inf))
    return ratio.amin(-1, keepdim=True).clamp(max=1 / 0.995)
