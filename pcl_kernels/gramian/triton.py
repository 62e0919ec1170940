"""The Gramian on a GPU: one pass over k pointer lists, float64 sums, the same bits every time.

A program (one warp up to 48 tasks) walks a fixed range of blocks and keeps its share of G in registers. Rows
go in tiles of 16 through the float64 matrix units (sm_80 and later; plain multiply-adds elsewhere), on and
below the diagonal only. Products of two float32 are exact in float64, so the error is that of float64 sums
whatever cancels. A second kernel adds the programs' shares in a fixed order; nothing is atomic.

The arithmetic hides behind the reads where float64 runs at full rate (V100, A100, H100, B200). Gaming cards
have 1/32 or 1/64 of that rate, and there exactness costs time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from pcl_kernels._pointers import BLOCK, groups, on, segments

# Sixteen programs for each of an H100's 132 multiprocessors. A constant, and not the device's own count,
# because the bits of the result depend on it.
PROGRAMS = 2112
LARGEST = 64  # tasks a single launch takes; more are handled in pairs of groups

TRITON_DTYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


@triton.jit
def _segment_of(table, block, segments, WIDTH: tl.constexpr):
    """The row of `table` whose blocks hold `block`: the last one whose first block is <= `block`."""
    low = 0
    high = segments
    while high - low > 1:
        middle = (low + high) // 2
        if tl.load(table + middle * WIDTH) <= block:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def _rows(entry, task, shift, TASKS: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Pointers to column `shift` of the gradients of the tasks in `task` [16], and which there are."""
    address = tl.load(entry + task, mask=task < TASKS, other=0)
    pointers = address.to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointers = tl.multiple_of(pointers, 16)
    return pointers + shift, address != 0


@triton.jit
def _shares(table, partial, segments, blocks, TASKS: tl.constexpr, GROUPS: tl.constexpr, TILES: tl.constexpr,
            DTYPE: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, ALIGNED: tl.constexpr):  # fmt: skip
    """partial[program] = the Gramian over this program's blocks, on and below the diagonal.

    Rows go in TILES tiles of 16; tile (a, b) of G, b <= a, is the sum of `dot(rows a, rows b transposed)`.
    Where all tasks fit GROUPS times into one tile, its rows are the tasks over GROUPS different spans of
    columns, and only the blocks on its diagonal count.
    """
    WIDTH: tl.constexpr = TASKS + 2
    SPAN: tl.constexpr = BLOCK // GROUPS
    program = tl.program_id(0).to(tl.int64)
    first = program * blocks // tl.num_programs(0)
    last = (program + 1) * blocks // tl.num_programs(0)
    row = tl.arange(0, 16)
    task = row % (16 // GROUPS)
    shift = row // (16 // GROUPS) * SPAN
    lane = tl.arange(0, STEP)
    sums = ()
    for _ in tl.static_range(TILES * (TILES + 1) // 2):
        sums = sums + (tl.zeros((16, 16), tl.float64),)

    segment = _segment_of(table, first, segments, WIDTH)
    for block in range(first, last):
        while tl.load(table + (segment + 1) * WIDTH) <= block:
            segment += 1
        entry = table + segment * WIDTH
        start = (block - tl.load(entry)) * BLOCK
        stop = tl.minimum(tl.load(entry + 1) - start, BLOCK).to(tl.int32)
        if ALIGNED:
            stop = tl.multiple_of(stop, ALIGNED)
        pointers = ()
        present = ()
        for a in tl.static_range(TILES):
            p, here = _rows(entry + 2, a * 16 + task, start + shift, TASKS, DTYPE, ALIGNED)
            pointers = pointers + (p,)
            present = present + (here,)
        for step in range(0, tl.minimum(stop, SPAN), STEP):
            column = shift[:, None] + (step + lane)[None, :]
            tiles = ()
            for a in tl.static_range(TILES):
                g = tl.load(
                    pointers[a][:, None] + (step + lane)[None, :],
                    mask=present[a][:, None] & (column < stop),
                    other=0.0,
                )
                tiles = tiles + (g.to(tl.float64),)
            added = ()
            for a in tl.static_range(TILES):
                for b in tl.static_range(a + 1):
                    sum = sums[a * (a + 1) // 2 + b]
                    added = added + (tl.dot(tiles[a], tl.trans(tiles[b]), sum, out_dtype=tl.float64),)
            sums = added

    out = partial + program * TASKS * TASKS
    if GROUPS > 1:
        ROWS: tl.constexpr = 16 // GROUPS
        group = tl.arange(0, GROUPS)
        same = group[:, None, None, None] == group[None, None, :, None]
        both = tl.reshape(sums[0], (GROUPS, ROWS, GROUPS, ROWS))
        gram = tl.sum(tl.sum(tl.where(same, both, 0.0), axis=2), axis=0)
        i = tl.arange(0, ROWS)
        inside = (i < TASKS)[:, None] & (i < TASKS)[None, :]
        tl.store(out + i[:, None] * TASKS + i[None, :], gram, mask=inside)
    else:
        for a in tl.static_range(TILES):
            for b in tl.static_range(a + 1):
                i = a * 16 + row
                j = b * 16 + row
                inside = (i < TASKS)[:, None] & (j < TASKS)[None, :]
                tl.store(out + i[:, None] * TASKS + j[None, :], sums[a * (a + 1) // 2 + b], mask=inside)


@triton.jit
def _total(partial, out, programs, TASKS: tl.constexpr, ENTRIES: tl.constexpr, SHARES: tl.constexpr):
    """out[i, j] = Σ over programs of partial[program, max(i, j), min(i, j)], always in the same order."""
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    i = entry // TASKS
    j = entry % TASKS
    lower = tl.maximum(i, j) * TASKS + tl.minimum(i, j)
    share = tl.arange(0, SHARES)
    inside = entry < TASKS * TASKS
    sums = tl.zeros((SHARES, ENTRIES), tl.float64)
    for base in range(0, programs, SHARES):
        at = (base + share)[:, None] * (TASKS * TASKS) + lower[None, :]
        sums += tl.load(partial + at, mask=(base + share < programs)[:, None] & inside[None, :], other=0.0)
    tl.store(out + entry, tl.sum(sums, axis=0), mask=inside)


def launch_plan(tasks: int, dtype: torch.dtype) -> dict[str, int]:
    """Tiles, groups, step and warps for `tasks` <= LARGEST: the widest that spill no register (sm_90)."""
    tiles = triton.cdiv(tasks, 16)
    groups = 16 // triton.next_power_of_2(tasks) if tasks <= 8 else 1
    warps = 1 if tiles < 4 else 4 if dtype == torch.float64 else 2
    step = 32 if tiles <= (1 if dtype == torch.float64 else 2) else 16
    return {"GROUPS": groups, "TILES": tiles, "STEP": step, "num_warps": warps, "num_stages": 3}


def gramian(grads: Sequence[Tensor | None], tasks: int) -> Tensor:
    """G = J Jᵀ [tasks, tasks] in float64 for `grads[parameter * tasks + task]`; on the CPU without any."""
    device = next((g.device for g in grads if g is not None), torch.device("cpu"))
    parameters = groups(grads, tasks)
    with on(device):
        if tasks > LARGEST:
            return _in_parts(parameters, tasks, device)
        return _up_to_largest(parameters, tasks, device)


def _up_to_largest(parameters: list[list[Tensor | None]], tasks: int, device: torch.device) -> Tensor:
    gram = torch.empty(tasks, tasks, dtype=torch.float64, device=device)
    tables = segments(parameters)
    programs = sum(min(PROGRAMS, part.blocks) for part in tables)
    if programs == 0:
        return gram.zero_()
    partial = torch.empty(programs, tasks, tasks, dtype=torch.float64, device=device)
    done = 0
    for part in tables:
        share = min(PROGRAMS, part.blocks)
        _shares[(share,)](
            *(part.table(device), partial[done:], part.count, part.blocks, tasks),
            DTYPE=TRITON_DTYPES[part.dtype],
            BLOCK=BLOCK,
            ALIGNED=16 // part.dtype.itemsize if part.aligned else 0,
            **launch_plan(tasks, part.dtype),
        )
        done += share
    _total[(triton.cdiv(tasks * tasks, 8),)](partial, gram, programs, TASKS=tasks, ENTRIES=8, SHARES=512, num_warps=8)
    return gram


def _in_parts(parameters: list[list[Tensor | None]], tasks: int, device: torch.device) -> Tensor:
    """More than LARGEST tasks: groups of LARGEST/2 in pairs, so that each byte is read tasks/32 times."""
    gram = torch.empty(tasks, tasks, dtype=torch.float64, device=device)
    half = LARGEST // 2
    for a in range(half, tasks, half):
        for b in range(0, a, half):
            rows = [*range(b, b + half), *range(a, min(a + half, tasks))]
            part = _up_to_largest([[tensors[i] for i in rows] for tensors in parameters], len(rows), device)
            gram[b : b + half, b : b + half] = part[:half, :half]
            gram[a : a + half, a : a + half] = part[half:, half:]
            gram[a : a + half, b : b + half] = part[half:, :half]
            gram[b : b + half, a : a + half] = part[:half, half:]
    return gram
