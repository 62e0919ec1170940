"""Which candidates of a growing network to take, one after the other in plain Python."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def firefly_select(
    gain: Tensor,
    cost: Tensor | None = None,
    layer: Tensor | None = None,
    *,
    neurons: int | None = None,
    layers: int | None = None,
    budget: float | None = None,
    least: int = 1,
) -> Tensor:
    """Walks through the candidates in order of falling gain; see `op.firefly_select`."""
    of = [-1] * len(gain) if layer is None else layer.tolist()
    prices = [0] * len(gain) if cost is None else cost.tolist()
    gains = gain.tolist()
    order = sorted((i for i in range(len(gain)) if gains[i] > 0), key=lambda i: (-gains[i], i))
    taken: list[int] = []
    opened: list[int] = []
    left = math.inf if budget is None else budget
    for i in order:
        if of[i] >= 0 and of[i] not in opened:
            opened.append(of[i])
        if of[i] >= 0 and layers is not None and opened.index(of[i]) >= layers:
            continue
        if neurons is not None and len(taken) == neurons:
            break
        if budget is not None and not 0 <= prices[i] <= left:
            break
        left -= prices[i]
        taken.append(i)
    enough = [i for i in taken if of[i] < 0 or sum(of[j] == of[i] for j in taken) >= least]
    chosen = torch.zeros(len(gain), dtype=torch.bool, device=gain.device)
    chosen[enough] = True
    return chosen
