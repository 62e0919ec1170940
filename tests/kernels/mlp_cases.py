"""Perceptrons of many shapes, and what their tests share."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CHAINS = {
    "one row": (1, (7, 5)),
    "one of everything": (1, (1, 1, 1)),
    "whole vectors": (32, (64, 32, 16)),
    "ragged": (21, (37, 23, 13, 9)),
    "one row beyond a tile": (7, (17, 6, 18)),
    "more than a panel": (5, (131, 129, 67)),
    "deep": (3, (5, 4, 5, 4, 5, 4)),
}


def chain(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, list[Tensor], list[Any]]:
    rows, widths = CHAINS[name]
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, widths[0], generator=draws, dtype=torch.float64).to(dtype)
    pairs = list(pairwise(widths))
    weights = [torch.randn(m, n, generator=draws, dtype=torch.float64).to(dtype) / n**0.5 for n, m in pairs]
    biases = [torch.randn(m, generator=draws, dtype=torch.float64).to(dtype) for _, m in pairs]
    return x, weights, biases


def close(found: Tensor, expected: Tensor) -> None:
    """To some roundings of the largest number in sight."""
    assert found.shape == expected.shape
    limit = 64 * torch.finfo(found.dtype).eps * (expected.abs().max().item() if expected.numel() else 0)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=limit)


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
