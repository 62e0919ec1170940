"""Pointer tables: how a GPU kernel learns where k lists of tensors lie, without the host ever waiting.

A table is one int64 tensor with a row for every parameter that holds something,

    [first block, number of elements, address 0, address 1, ..., address n-1],

address 0 standing for None, and at the end the total number of blocks. Blocks are `BLOCK` columns of
one parameter; the split depends on shapes and alignments alone, so that sums over blocks have the same bits
on every device.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcl_kernels._gradients import aligned

BLOCK = 2048


def on(device: torch.device) -> AbstractContextManager[object]:
    """Launches go to `device` within; Triton asks for the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def upload(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of `values` on `device`, with no host synchronisation, also under CUDA graph capture.

    In eager mode the values travel through pinned memory, which the caching host allocator keeps alive until
    the copy is done. A captured graph may be replayed long after that memory has found another use, so there
    the values must be baked into the graph: a multi-tensor add passes them as kernel arguments.
    """
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    if torch.cuda.is_current_stream_capturing():
        table = torch.zeros(len(values), dtype=dtype, device=device)
        torch._foreach_add_(table.unbind(), list(values))
        return table
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


@dataclass
class Segments:
    """The parameters of one dtype and alignment: the words of their table, their number, their blocks."""

    dtype: torch.dtype
    aligned: bool
    words: list[int] = field(default_factory=list)
    count: int = 0
    blocks: int = 0

    def table(self, device: torch.device) -> Tensor:
        return upload([*self.words, self.blocks], torch.int64, device)


def groups(tensors: Sequence[Tensor | None], tasks: int) -> list[list[Tensor | None]]:
    """`tensors[parameter * tasks + task]` by parameter, each in one dense memory order (see `aligned`)."""
    return [aligned(tensors[p : p + tasks]) for p in range(0, len(tensors), tasks)]


def segments(parameters: Sequence[Sequence[Tensor | None]]) -> list[Segments]:
    """The tables of `parameters`, where `parameters[p]` holds the tensors (or None) of parameter p.

    The tensors of a parameter are dense in one memory order, of one dtype and size, on one device. A
    parameter with no tensor at all or no elements is left out. Parameters whose addresses and sizes are
    multiples of 16 bytes, which is nearly all of them, get a table of their own, because their kernels load
    16 bytes at a time.
    """
    found: dict[tuple[torch.dtype, bool], Segments] = {}
    for tensors in parameters:
        some = next((t for t in tensors if t is not None), None)
        if some is None or some.numel() == 0:
            continue
        size, dtype = some.numel(), some.dtype
        addresses = [0 if t is None else t.data_ptr() for t in tensors]
        aligned = size * dtype.itemsize % 16 == 0 and all(a % 16 == 0 for a in addresses)
        group = found.setdefault((dtype, aligned), Segments(dtype, aligned))
        group.words += [group.blocks, size, *addresses]
        group.count += 1
        group.blocks += -(-size // BLOCK)
    return list(found.values())
