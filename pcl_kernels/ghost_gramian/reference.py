"""`ghost_gramian` as its docstring says it, in float64; this is also how a GPU computes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ghost_gramian(a: Tensor, delta: Tensor, sizes: Sequence[int], bias: bool = False) -> Tensor:
    a, delta = a.double(), delta.double()
    products = (a @ a.T + bias) * (delta @ delta.T)  # (B, B)
    halfway = [block.sum(dim=0) for block in products.split(list(sizes))]  # k of (B,)
    if not halfway:
        return products.new_zeros(0, 0)
    gram = torch.stack([block.sum(dim=1) for block in torch.stack(halfway).split(list(sizes), dim=1)], dim=1)
    return (gram + gram.T) / 2  # symmetric to the bit
