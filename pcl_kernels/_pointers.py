"""Pointer tables: how a GPU kernel learns where k lists of tensors lie, without the host ever waiting.

A table is one int64 tensor with a row for every parameter that holds something,

    [first block, number of elements, address 0, address 1, ..., address n-1],

address 0 standing for None, and a last row that holds the total number of blocks. Blocks are `BLOCK` columns of
one parameter; the split depends on the shapes alone, so sums over blocks have the same bits on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 2048


def upload(words: list[int], device: torch.device) -> Tensor:
    """An int64 tensor of `words` on `device`, with no host synchronisation, also under CUDA graph capture.

    In eager mode the words travel through pinned memory, which the caching host allocator keeps alive until the
    copy is done. A captured graph may be replayed long after that memory has found another use, so there the words
    must be baked into the graph: a multi-tensor add passes them as kernel arguments.
    """
    if device.type != "cuda":
        return torch.tensor(words, dtype=torch.int64, device=device)
    if torch.cuda.is_current_stream_capturing():
        table = torch.zeros(len(words), dtype=torch.int64, device=device)
        torch._foreach_add_(table.unbind(), words)
        return table
    return torch.tensor(words, dtype=torch.int64, pin_memory=True).to(device, non_blocking=True)


def segments(parameters: Sequence[Sequence[Tensor | None]]) -> dict[torch.dtype, tuple[list[int], int, int]]:
    """For each dtype the words of its table, its number of parameters and its number of blocks.

    `parameters[p]` holds the tensors (or None) of parameter p, contiguous, of one dtype and size. A parameter with
    no tensor at all or no elements is left out.
    """
    found: dict[torch.dtype, tuple[list[int], int, int]] = {}
    for tensors in parameters:
        size, dtype = next(((t.numel(), t.dtype) for t in tensors if t is not None), (0, None))
        if size == 0 or dtype is None:
            continue
        words, count, blocks = found.get(dtype, ([], 0, 0))
        words += [blocks, size]
        words += [0 if t is None else t.data_ptr() for t in tensors]
        found[dtype] = words, count + 1, blocks + -(-size // BLOCK)
    width = 2 + (len(parameters[0]) if parameters else 0)
    return {
        dtype: (words + [blocks] + [0] * (width - 1), count, blocks)
        for dtype, (words, count, blocks) in found.items()
    }
