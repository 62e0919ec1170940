"""Rows and columns of many tensors chosen anew: signature, checks, dispatch. Kernel: csrc/firefly_apply.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from pcl_kernels import _C
from pcl_kernels._gradients import DTYPES
from pcl_kernels._registry import define, plain

#: one tensor for all, or one entry (which may be None) per tensor
PerTensor: TypeAlias = Tensor | Sequence[Tensor | None] | None
Lists: TypeAlias = list[list[Tensor | None]]

_NAMES = ("rows", "columns", "extra_rows", "extra_columns", "row_scale", "column_scale")


def firefly_apply(
    tensors: Sequence[Tensor],
    rows: PerTensor = None,
    columns: PerTensor = None,
    *,
    extra_rows: Sequence[Tensor | None] | None = None,
    extra_columns: Sequence[Tensor | None] | None = None,
    row_scale: PerTensor = None,
    column_scale: PerTensor = None,
) -> list[Tensor]:
    """New tensors from chosen rows and columns of old ones: weights, and optimizer moments, of a network that grows.

    out[r, c, ...] = row_scale[r] column_scale[c] src(rows[r], columns[c], ...) of the block matrix

        src = [[tensor,     extra_columns],      R rows
               [extra_rows, corner       ]]      E rows
                C columns   F columns

    where an index of -1 stands for zeros. All tensors of a network may go in one call, which reads and writes every
    number once.

    Args:
        tensors: each `(R, C, ...)`, or `(R,)` with rows alone. Any dtype where nothing is scaled; with a scale float32,
            float64, float16 or bfloat16. Non-contiguous memory is copied first.
        rows, columns: int64 `(R',)` and `(C',)`, from -1 to R + E - 1 and C + F - 1; a tensor for all, or a list with
            an entry for each. None: all of the tensor's own, in order.
        extra_rows: per tensor `(E, C, ...)` of its dtype, or None.
        extra_columns: per tensor `(R, F, ...)` of its dtype, then the corner is zero; or `(R + E, F, ...)` with the
            corner; or None.
        row_scale, column_scale: `(R',)` and `(C',)` floating, 1 where None; as with `rows`. Products are taken in
            float64, (row_scale column_scale) src, and rounded once.

    Returns:
        One new contiguous `(R', C', ...)` per tensor, of its dtype and device. Not differentiable. On a GPU nothing
        waits for the host, so that an index that is out of range gives zeros there.

    Raises:
        TypeError: for something that is no tensor, indices that are not int64, a dtype that differs, or a scale for a
            dtype that cannot be scaled.
        ValueError: for shapes, lists or devices that do not match, columns for a vector, or (on the CPU) an index out
            of range.

    Source: Liu, dissertation, Sec. 5.2.2: the network f_{t+1} that a growth phase ends with.
    """
    read = _read(tensors, (rows, columns, extra_rows, extra_columns, row_scale, column_scale))
    for i, t in enumerate(read.tensors):
        _check(i, t, [values[i] for values in read.lists])
    given = [*read.tensors, *(t for values in read.lists for t in values if t is not None)]
    out: list[Tensor] = (_cpu if plain(*given) else _op)(read.tensors, *read.lists)
    return out


class _Read(NamedTuple):
    tensors: list[Tensor]
    lists: Lists  # in the order of _NAMES, each with one entry per tensor


def _read(tensors: Sequence[Tensor], given: Sequence[PerTensor]) -> _Read:
    if isinstance(tensors, Tensor) or not isinstance(tensors, Sequence):
        raise TypeError(
            f"firefly_apply: tensors: expected a list of tensors, got {type(tensors).__name__}. Use [tensor]"
        )
    if not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(f"firefly_apply: tensors: expected tensors, got {', '.join(type(t).__name__ for t in tensors)}")
    lists: Lists = []
    for name, value in zip(_NAMES, given, strict=True):
        if value is None or (isinstance(value, Tensor) and not name.startswith("extra")):
            lists.append([None if value is None else value.detach()] * len(tensors))
            continue
        if isinstance(value, Tensor) or len(value) != len(tensors):
            found = "a tensor" if isinstance(value, Tensor) else str(len(value))
            raise ValueError(f"firefly_apply: {name}: expected {len(tensors)} entries, one per tensor; got {found}")
        lists.append([t if t is None else t.detach() for t in value])
    return _Read([t.detach() for t in tensors], lists)


def _check(i: int, t: Tensor, given: Sequence[Tensor | None]) -> None:
    rows, columns, below, right, row_scale, column_scale = given
    where = f"firefly_apply: tensor {i} of shape {tuple(t.shape)}"
    if t.dim() == 0:
        raise ValueError(f"{where}: expected at least one dimension")
    if t.dim() == 1 and any(x is not None for x in (columns, right, column_scale)):
        raise ValueError(f"{where}: a vector has no columns. Give None for its columns, extra_columns and column_scale")
    for name, value in zip(_NAMES, given, strict=True):
        if value is not None and value.device != t.device:
            raise ValueError(f"{where}: {name} is on {value.device}, the tensor on {t.device}. Move one")
    if below is not None and below.shape[1:] != t.shape[1:]:
        raise ValueError(f"{where}: extra_rows: expected (any{_rest(t.shape[1:])}), got {tuple(below.shape)}")
    height = len(t) + (0 if below is None else len(below))
    if right is not None and (right.dim() < 2 or right.shape[2:] != t.shape[2:] or len(right) not in (len(t), height)):
        either = f"{len(t)}" if height == len(t) else f"{len(t)} or, with the corner, {height}"
        raise ValueError(
            f"{where}: extra_columns: expected ({either}, any{_rest(t.shape[2:])}), got {tuple(right.shape)}"
        )
    for name, extra in (("extra_rows", below), ("extra_columns", right)):
        if extra is not None and extra.dtype != t.dtype:
            raise TypeError(f"{where}: {name}: expected {t.dtype} as the tensor, got {extra.dtype}. Convert it")
    if t.dtype not in DTYPES and (row_scale is not None or column_scale is not None):
        known = ", ".join(map(str, DTYPES))
        raise TypeError(f"{where}: only {known} can be scaled, and this is {t.dtype}. Give None for its scales")
    width = (t.shape[1] if t.dim() > 1 else 1) + (0 if right is None else right.shape[1])
    _check_axis(where, "row", rows, row_scale, len(t), height)
    _check_axis(where, "column", columns, column_scale, t.shape[1] if t.dim() > 1 else 1, width)


def _check_axis(where: str, axis: str, index: Tensor | None, scale: Tensor | None, own: int, all_of_it: int) -> None:
    if index is not None:
        if index.dtype != torch.int64:
            raise TypeError(f"{where}: {axis}s: expected int64, got {index.dtype}. Use .long()")
        if index.dim() != 1:
            raise ValueError(f"{where}: {axis}s: expected shape (any,), got {tuple(index.shape)}")
        if type(index) is Tensor and index.is_cpu and index.numel() and plain(index):
            low, high = (int(x) for x in index.aminmax())
            if low < -1 or high >= all_of_it:
                raise ValueError(
                    f"{where}: {axis}s: expected indices from -1 (zeros) to {all_of_it - 1}, its own {axis}s and the "
                    f"extra ones; got {low} to {high}"
                )
    if scale is not None:
        length = own if index is None else len(index)
        if scale.shape != (length,):
            raise ValueError(f"{where}: {axis}_scale: expected shape ({length},), got {tuple(scale.shape)}")
        if not scale.dtype.is_floating_point:
            raise TypeError(f"{where}: {axis}_scale: expected a floating dtype, got {scale.dtype}. Use .double()")


def _rest(shape: Sequence[int]) -> str:
    return "".join(f", {n}" for n in shape)


def out_shape(t: Tensor, rows: Tensor | None, columns: Tensor | None) -> tuple[int, ...]:
    """Of the new tensor."""
    height = len(t) if rows is None else len(rows)
    return (height, *t.shape[1:]) if columns is None else (height, len(columns), *t.shape[2:])


def _cpu(tensors: list[Tensor], *lists: list[Tensor | None]) -> list[Tensor]:
    made, address, size, alive = [], [], [], []
    for t, rows, columns, *others in zip(tensors, *lists, strict=True):
        below, right, row_scale, column_scale = others
        out = torch.empty(out_shape(t, rows, columns), dtype=t.dtype)
        made.append(out)
        if not out.numel():
            continue
        scales = [s if s is None else s.double() for s in (row_scale, column_scale)]
        read = [x if x is None else x.resolve_neg().contiguous() for x in (t, below, right, rows, columns, *scales)]
        alive += read
        at = [0 if x is None else x.data_ptr() for x in read]
        address.append((*at[:3], out.data_ptr(), *at[3:]))
        wide = t.shape[1] if t.dim() > 1 else 1
        inner = t.shape[2:].numel()
        extra = (0 if below is None else len(below), *((0, 0) if right is None else right.shape[:2]))
        sizes = (len(out), out.shape[1] if out.dim() > 1 else 1)
        size.append((len(t), wide, inner, *extra, *sizes, DTYPES.get(t.dtype, 0), t.element_size()))
    work = sum(out.numel() for out in made)
    if address:
        _C.firefly_apply(address, size, torch.get_num_threads() if work >= 1 << 17 else 1)
    return made


def _fake(tensors: list[Tensor], rows: list[Tensor | None], columns: list[Tensor | None], *_: Any) -> list[Tensor]:
    return [t.new_empty(out_shape(t, r, c)) for t, r, c in zip(tensors, rows, columns, strict=True)]


_op: Any = define(
    "firefly_apply(Tensor[] tensors, Tensor?[] rows, Tensor?[] columns, Tensor?[] extra_rows, Tensor?[] extra_columns, "
    "Tensor?[] row_scale, Tensor?[] column_scale) -> Tensor[]",
    cpu=_cpu,
    fake=_fake,
    cuda="pcl_kernels.firefly_apply.triton:firefly_apply",
)
