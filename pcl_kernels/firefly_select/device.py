"""The selection on a GPU, as sorts and scans of torch.

All the work is in sorting, and torch's radix sort is at the speed of the hardware; a Triton kernel of one program
would be slower, and one of many would be a sort written again. Shapes never depend on values, so nothing waits for the
host.
"""

from __future__ import annotations

import torch
from torch import Tensor


def firefly_select(
    gain: Tensor, cost: Tensor | None, layer: Tensor | None, neurons: int, layers: int, budget: int, least: int
) -> Tensor:
    """`op.firefly_select` after its checks."""
    if not len(gain):
        return gain.new_zeros(0, dtype=torch.bool)
    worth = torch.where(gain > 0, gain, torch.zeros_like(gain))  # NaN too is worth nothing
    worth, order = torch.sort(worth, descending=True, stable=True)
    taken = worth > 0
    number = best = None
    if layer is not None:
        number = layer[order]
        best = _best_of_layer(number)
        opens = (best == torch.arange(len(gain), device=gain.device)) & taken & (number >= 0)
        rank = opens.long().cumsum(0)[best]  # of its layer
        taken = taken & ((number < 0) | (rank <= layers))
    taken = taken & (taken.long().cumsum(0) <= neurons)
    if cost is not None:
        price = torch.where(taken, cost[order], 0)
        fits = (price >= 0) & (price.cumsum(0) <= budget)
        taken = taken & ((~fits).long().cumsum(0) == 0)
    if number is not None and best is not None:
        members = torch.zeros_like(number).scatter_add_(0, best, taken.long())
        taken = taken & ((number < 0) | (members[best] >= least))
    return torch.zeros_like(taken).scatter_(0, order, taken)


def _best_of_layer(number: Tensor) -> Tensor:
    """For every candidate, all being in order, the place of the first one of its layer."""
    by_layer = torch.argsort(number, stable=True)
    ordered = number[by_layer]
    places = torch.arange(len(number), device=number.device)
    begins = torch.ones_like(number, dtype=torch.bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    first = torch.where(begins, places, torch.zeros_like(places)).cummax(0).values
    return torch.empty_like(number).scatter_(0, by_layer, by_layer[first])
