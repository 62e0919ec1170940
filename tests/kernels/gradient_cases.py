"""Task gradients of all kinds for the tests of gramian, combine and the fused updates."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

#: shapes of parameters; sizes around the kernels' group of 8, block of 256 to 1024, chunk of 8192 columns
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "one": [(1,)],
    "lane": [(8,)],
    "odd": [(5,), (3, 3), (7, 1, 2)],
    "empty": [(0,), (4, 0)],
    "with-empty": [(6,), (0, 3), (2,)],
    "scalar": [(), (3,)],
    "blocks": [(255,), (257,), (1023, 1), (1025,)],
    "chunks": [(8191,), (2, 8193), (17, 31)],
    "none": [],
}


def task_gradients(
    shapes: list[tuple[int, ...]], k: int, dtype: torch.dtype, *, seed: int = 0, device: str = "cpu"
) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(s, generator=generator).to(device, dtype) for s in shapes] for _ in range(k)]


def with_none(grads: list[list[Tensor]]) -> list[list[Tensor | None]]:
    """Every third gradient missing, and one parameter that no task touches."""
    out: list[list[Tensor | None]] = [
        [None if (i + p) % 3 == 0 else g for p, g in enumerate(row)] for i, row in enumerate(grads)
    ]
    for row in out:
        row[-1] = None
    return out


def in_layout(t: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "contiguous":
        return t
    if layout == "transposed":
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "strided":
        wide = torch.full((*t.shape, 3), float("nan"), dtype=t.dtype, device=t.device)
        wide[..., 1] = t
        return wide[..., 1]
    if layout == "expanded":
        return t[:1].expand_as(t)
    if layout == "offset":
        return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)
    raise ValueError(layout)


LAYOUTS = ["contiguous", "transposed", "strided", "expanded", "offset"]
