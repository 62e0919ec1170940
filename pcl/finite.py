"""Whether values are finite, at the price of reading them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def finite_on_cpu(tensors: Sequence[Tensor | None]) -> bool:
    """Whether every value of tensors on the CPU is finite.

    A finite sum shows it at the price of reading. One that is not may have overflowed, and is looked into.
    """
    return all(t is None or math.isfinite(_total(t)) or bool(t.isfinite().all()) for t in tensors)


def _total(t: Tensor) -> float:
    few = t.dim() == 1 and t.shape[0] <= 32  # then quicker without torch
    return sum(t.tolist()) if few else t.sum().item()


def all_finite(tensors: Sequence[Tensor | None]) -> Tensor:
    """Whether every value is finite, a bool tensor; without a wait for a GPU."""
    present = [t for t in tensors if t is not None and t.numel()]
    if not present or all(t.is_cpu for t in present):
        return torch.tensor(finite_on_cpu(present))
    largest = torch._foreach_norm(present, torch.inf)
    return torch.isfinite(torch.stack([norm.double() for norm in largest])).all()
