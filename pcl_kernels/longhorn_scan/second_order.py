"""`longhorn_scan` in torch ops, for gradients of its gradients: log L calls on whole tensors, not B L on small ones.

Two steps of S_t = a_t ⊙ S_{t-1} + b_t are one of the same form, with a_{t+1} ⊙ a_t and a_{t+1} ⊙ b_t + b_{t+1}. So
every other state comes from a scan of half the length, and the rest from those. Decays lie in [0, 1], so that nothing
overflows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcl_kernels.longhorn_scan import reference


def longhorn_scan(
    x: Tensor, q: Tensor, k: Tensor, beta: Tensor, *, initial_state: Tensor | None, reverse: bool, **options: Any
) -> tuple[Tensor, Tensor]:
    """o and the final state, as the reference has them, which does what is left: `exact` and packed sequences."""
    if options["exact"] or options["cu_seqlens"] is not None or not x.numel():
        return reference.longhorn_scan(x, q, k, beta, initial_state=initial_state, reverse=reverse, **options)
    if reverse:
        x, q, k, beta = (t.flip(1) for t in (x, q, k, beta))
    groups = k.shape[2]
    size = reference.step_size(beta.unflatten(-1, (groups, -1)), k, options["logits"]).unsqueeze(-1)  # (B, L, G, C, 1)
    key = k.unsqueeze(-2)
    gain = size * key
    decay, added = 1 - gain * key, gain * x.unflatten(-1, (groups, -1)).unsqueeze(-1)
    if initial_state is not None:
        first = decay[:, :1] * initial_state.to(x.dtype).unflatten(1, (groups, -1)).unsqueeze(1)
        added = torch.cat([added[:, :1] + first, added[:, 1:]], dim=1)
    states = _scan(decay, added)  # (B, L, G, C, M)
    out = (states * q.unsqueeze(-2)).sum(-1).flatten(2)
    if options["skip"] is not None:
        out = out + options["skip"] * x
    return out.flip(1) if reverse else out, states[:, -1].flatten(1, 2)


def _scan(a: Tensor, b: Tensor) -> Tensor:
    """S_t = a_t ⊙ S_{t-1} + b_t for all t, from S = 0; a and b (B, L, ...)."""
    length = a.shape[1]
    if length == 1:
        return b
    if length % 2:
        a, b = (torch.cat([t, t[:, -1:]], dim=1) for t in (a, b))  # a step that is cut off again
    (a0, a1), (b0, b1) = (t.unflatten(1, (-1, 2)).unbind(2) for t in (a, b))
    second = _scan(a1 * a0, a1 * b0 + b1)  # the states behind every pair
    before = torch.cat([torch.zeros_like(second[:, :1]), second[:, :-1]], dim=1)
    return torch.stack([a0 * before + b0, second], dim=2).flatten(1, 2)[:, :length]
