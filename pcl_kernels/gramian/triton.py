"""The Gramian on a GPU: one pass over k pointer lists, float64 sums, the same bits every time.

A program walks a fixed range of blocks and keeps its share of G in registers. Up to 8 tasks it keeps one float64
sum per pair *and column lane*; beyond, rows go in tiles of 16 through the float64 matrix units (sm_80 and later;
plain multiply-adds elsewhere), on and below the diagonal only. Products of two float32 are exact in float64, so the
error is that of float64 sums whatever cancels. A second kernel adds the programs' shares in a fixed order; nothing
is atomic.

On cards with full-rate float64 (V100, A100, H100, B200) the arithmetic hides behind the reads; on gaming cards, with
1/32 or 1/64 of that rate, it does not, and exactness costs time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._pointers import BLOCK, segments, upload

# Eight programs for each of an H100's 132 multiprocessors. A constant, and not the device's own count, because the
# bits of the result depend on it.
PROGRAMS = 1056
LARGEST = 64  # tasks a single launch takes; more are handled in pairs of groups

_TRITON_DTYPE = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}


@triton.jit
def segment_of(table, block, segments, WIDTH: tl.constexpr):
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
def _tile(pointers, columns, stop):
    """Rows at `pointers` (address 0: a row of zeros), `columns` below `stop`, in float64: [rows, columns]."""
    here = (pointers.to(tl.int64) != 0)[:, None] & (columns < stop)[None, :]
    return tl.load(pointers[:, None] + columns[None, :], mask=here, other=0.0).to(tl.float64)


@triton.jit
def _few_tasks(table, partial, segments, blocks, TASKS: tl.constexpr, ROWS: tl.constexpr, DTYPE: tl.constexpr,
               BLOCK: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """ROWS = 1, 2, 4 or 8: all pairs as one outer product per column lane, summed over the lanes at the end."""
    WIDTH: tl.constexpr = TASKS + 2
    program = tl.program_id(0).to(tl.int64)
    programs = tl.num_programs(0)
    first = program * blocks // programs
    last = (program + 1) * blocks // programs
    row = tl.arange(0, ROWS)
    lane = tl.arange(0, STEP)
    sums = tl.zeros((ROWS, ROWS, STEP), tl.float64)
    segment = segment_of(table, first, segments, WIDTH)
    for block in range(first, last):
        while tl.load(table + (segment + 1) * WIDTH) <= block:
            segment += 1
        entry = table + segment * WIDTH
        start = (block - tl.load(entry)) * BLOCK
        stop = tl.minimum(tl.load(entry + 1) - start, BLOCK).to(tl.int32)
        address = tl.load(entry + 2 + row, mask=row < TASKS, other=0)
        pointers = tl.where(address != 0, address + start * (DTYPE.primitive_bitwidth // 8), 0)
        pointers = pointers.to(tl.pointer_type(DTYPE))
        for step in range(0, stop, STEP):
            g = _tile(pointers, step + lane, stop)
            sums += g[:, None, :] * g[None, :, :]
    total = tl.sum(sums, axis=2)
    at = row[:, None] * TASKS + row[None, :]
    inside = (row < TASKS)[:, None] & (row < TASKS)[None, :]
    tl.store(partial + program * TASKS * TASKS + at, total, mask=inside)


@triton.jit
def _many_tasks(table, partial, segments, blocks, TASKS: tl.constexpr, TILES: tl.constexpr, DTYPE: tl.constexpr,
                BLOCK: tl.constexpr, STEP: tl.constexpr):  # fmt: skip
    """Rows in TILES tiles of 16; tile (a, b) of G, b <= a, is the sum of `dot(rows a, rows b transposed)`."""
    WIDTH: tl.constexpr = TASKS + 2
    program = tl.program_id(0).to(tl.int64)
    programs = tl.num_programs(0)
    first = program * blocks // programs
    last = (program + 1) * blocks // programs
    row = tl.arange(0, 16)
    lane = tl.arange(0, STEP)
    sums = ()
    for _ in tl.static_range(TILES * (TILES + 1) // 2):
        sums = sums + (tl.zeros((16, 16), tl.float64),)
    segment = segment_of(table, first, segments, WIDTH)
    for block in range(first, last):
        while tl.load(table + (segment + 1) * WIDTH) <= block:
            segment += 1
        entry = table + segment * WIDTH
        start = (block - tl.load(entry)) * BLOCK
        stop = tl.minimum(tl.load(entry + 1) - start, BLOCK).to(tl.int32)
        pointers = ()
        for a in tl.static_range(TILES):
            address = tl.load(entry + 2 + a * 16 + row, mask=a * 16 + row < TASKS, other=0)
            address = tl.where(address != 0, address + start * (DTYPE.primitive_bitwidth // 8), 0)
            pointers = pointers + (address.to(tl.pointer_type(DTYPE)),)
        for step in range(0, stop, STEP):
            tiles = ()
            for a in tl.static_range(TILES):
                tiles = tiles + (_tile(pointers[a], step + lane, stop),)
            added = ()
            for a in tl.static_range(TILES):
                for b in tl.static_range(a + 1):
                    product = tl.dot(tiles[a], tl.trans(tiles[b]), sums[a * (a + 1) // 2 + b], out_dtype=tl.float64)
                    added = added + (product,)
            sums = added
    for a in tl.static_range(TILES):
        for b in tl.static_range(a + 1):
            i = a * 16 + row
            j = b * 16 + row
            at = i[:, None] * TASKS + j[None, :]
            inside = (i < TASKS)[:, None] & (j < TASKS)[None, :]
            tl.store(partial + program * TASKS * TASKS + at, sums[a * (a + 1) // 2 + b], mask=inside)


@triton.jit
def _total(partial, out, programs, TASKS: tl.constexpr, ENTRIES: tl.constexpr, SHARES: tl.constexpr):
    """out[i, j] = sum over programs of partial[program, max(i, j), min(i, j)], in an order that is always the same."""
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


def gramian_triton(parameters: Sequence[Sequence[Tensor | None]], tasks: int, device: torch.device) -> Tensor:
    """G = J Jᵀ [tasks, tasks], float64; `parameters[p][i]` is the contiguous gradient of task i (None: zero)."""
    if tasks > LARGEST:
        return _by_groups(parameters, tasks, device)
    gram = torch.empty(tasks, tasks, dtype=torch.float64, device=device)
    groups = [(dtype, *found, min(PROGRAMS, found[2])) for dtype, found in segments(parameters).items()]
    programs = sum(group[-1] for group in groups)
    if tasks == 0 or programs == 0:
        return gram.zero_()
    partial = torch.empty(programs, tasks, tasks, dtype=torch.float64, device=device)
    done = 0
    for dtype, words, count, blocks, share in groups:
        table = upload(words, device)
        common = {"TASKS": tasks, "DTYPE": _TRITON_DTYPE[dtype], "BLOCK": BLOCK}
        if tasks <= 8:
            rows = triton.next_power_of_2(tasks)
            _few_tasks[(share,)](
                table, partial[done:], count, blocks, ROWS=rows, STEP=128, num_warps=4, **common
            )
        else:
            tiles = triton.cdiv(tasks, 16)
            step = 32 if tiles <= 2 else 16  # the widest that spills no register
            _many_tasks[(share,)](
                table, partial[done:], count, blocks, TILES=tiles, STEP=step, num_warps=2, **common
            )
        done += share
    entries = 32
    _total[(triton.cdiv(tasks * tasks, entries),)](
        partial, gram, programs, TASKS=tasks, ENTRIES=entries, SHARES=64
    )
    return gram


def _by_groups(parameters: Sequence[Sequence[Tensor | None]], tasks: int, device: torch.device) -> Tensor:
    """More than LARGEST tasks: every pair of groups of LARGEST/2 together, so each byte is read tasks/32 times."""
    gram = torch.empty(tasks, tasks, dtype=torch.float64, device=device)
    half = LARGEST // 2
    starts = range(0, tasks, half)
    for a in starts:
        for b in starts:
            if b >= a:
                continue
            rows = [*range(b, b + half), *range(a, min(a + half, tasks))]
            part = gramian_triton([[tensors[i] for i in rows] for tensors in parameters], len(rows), device)
            gram[b : b + half, b : b + half] = part[:half, :half]
            gram[a : a + half, a : a + half] = part[half:, half:]
            gram[a : a + half, b : b + half] = part[half:, :half]
            gram[b : b + half, a : a + half] = part[:half, half:]
    return gram
