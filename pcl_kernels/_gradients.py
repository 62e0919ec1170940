"""What a caller may pass as the gradients of k tasks, read into one shape that the kernels share.

Three forms, none of which is ever concatenated or copied:

* a `(k, m)` tensor, one row a task,
* k tensors of one shape,
* k lists of per-parameter tensors; `None` is a gradient of zeros, as in `torch.autograd.grad`.

Inside they become one flat list, parameter by parameter, `tensors[p * k + i]` for task i. Everything is
checked here, before an op touches anything. Calls that are as usual (plain CPU tensors in one memory order) are
read and checked by csrc/operands.cpp in place of this file, in a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from pcl_kernels import _C

Grads: TypeAlias = Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor | None]]

#: the kernels' numbering of dtypes (csrc/gradients.hpp)
DTYPES: dict[torch.dtype, int] = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}

#: False for torch < 2.10, where every call is read here
READ_IN_CPP: bool = _C.use_torch(Tensor, nn.Parameter)


class TaskGradients(NamedTuple):
    """The gradients of `tasks` tasks with respect to `parameters` parameters."""

    tensors: list[Tensor | None]  # [parameter * tasks + task]
    tasks: int
    parameters: int
    listed: bool  # given as lists of per-parameter tensors

    def of(self, parameter: int) -> list[Tensor | None]:
        """The k gradients of one parameter."""
        return self.tensors[parameter * self.tasks : (parameter + 1) * self.tasks]

    def present(self) -> list[Tensor]:
        return [t for t in self.tensors if t is not None]

    @property
    def device(self) -> torch.device:
        return next((t.device for t in self.tensors if t is not None), torch.device("cpu"))


def read(grads: Grads, op: str) -> TaskGradients:
    """Check `grads` and bring it into the shared shape.

    Raises TypeError for anything but floating-point tensors in one of the three forms or for a dtype that
    differs between tasks, ValueError for no task, or for lists, shapes or devices that do not match.
    """
    if isinstance(grads, Tensor):
        if grads.dim() != 2:
            raise ValueError(
                f"{op}: grads as one tensor must be (k, m), one row a task; got shape {tuple(grads.shape)}. "
                "Pass a list of tensors for other shapes"
            )
        rows: list[list[Tensor | None]] = [[row] for row in grads.unbind(0)]
        listed = False
    elif isinstance(grads, Sequence) and not isinstance(grads, str):
        listed = bool(len(grads)) and not isinstance(grads[0], Tensor)
        rows = [_row(task, i, listed, op) for i, task in enumerate(grads)]
    else:
        raise TypeError(
            f"{op}: grads must be a (k, m) tensor, a sequence of k tensors or a sequence of k lists of "
            f"tensors; got {type(grads).__name__}"
        )
    if not rows:
        raise ValueError(f"{op}: grads must hold at least one task; got none")
    for i, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{op}: every task must list the same parameters; task 0 has {len(rows[0])}, task {i} has "
                f"{len(row)}. Use None for a parameter that a task does not touch"
            )
    tensors = [row[p] for p in range(len(rows[0])) for row in rows]
    read = TaskGradients(tensors, len(rows), len(rows[0]), listed)
    _check(read, op)
    return read


def _row(task: object, i: int, listed: bool, op: str) -> list[Tensor | None]:
    if isinstance(task, Tensor) and not listed:
        return [task]
    if isinstance(task, Sequence) and not isinstance(task, str) and listed:
        return list(task)
    expected = "a list of tensors" if listed else "a tensor"
    raise TypeError(
        f"{op}: grads of all tasks must have one form, that of task 0; task {i} must be {expected}; "
        f"got {type(task).__name__}"
    )


def _check(grads: TaskGradients, op: str) -> None:
    seen: Tensor | None = None  # any tensor at all, for the device
    for p in range(grads.parameters):
        first: Tensor | None = None
        for i, t in enumerate(grads.of(p)):
            if t is None:
                continue
            where = f"{op}: grads of task {i}" + (f", parameter {p}" if grads.listed else "")
            if not isinstance(t, Tensor):
                raise TypeError(f"{where}: expected a tensor or None; got {type(t).__name__}")
            if t.dtype not in DTYPES:
                raise TypeError(f"{where}: expected float16, bfloat16, float32 or float64; got {t.dtype}. Convert it")
            if t.layout != torch.strided:
                raise TypeError(f"{where}: expected a strided tensor; got {t.layout}. Use .to_dense()")
            if first is None:
                first = t
            elif t.dtype != first.dtype:
                raise TypeError(f"{where}: dtype {t.dtype} differs from {first.dtype} of an earlier task. Convert one")
            elif t.shape != first.shape:
                raise ValueError(
                    f"{where}: shape {tuple(t.shape)} differs from {tuple(first.shape)} of an earlier task"
                )
            seen = t if seen is None else seen
            if t.device != seen.device:
                raise ValueError(f"{where}: on {t.device}, but earlier gradients are on {seen.device}")


class Operands(NamedTuple):
    """The tensors of a call as the compiled kernels take them."""

    compiled: Any  # their addresses (csrc/operands.hpp)
    groups: list[list[Tensor | None]]  # the tensors behind the addresses, copies among them, kept alive
    copies: list[tuple[Tensor, Tensor]]  # (tensor to write, contiguous copy written in its place)

    def write_back(self) -> None:
        """Bring results from copies to the tensors they stand for."""
        for original, copy in self.copies:
            original.copy_(copy)


def operands(tensors: Sequence[Tensor | None], tasks: int, *targets: Sequence[Tensor | None]) -> Operands:
    """Addresses of `tensors[parameter * tasks + task]` and of `targets[...][parameter]`, all on the CPU.

    Where all tensors of a parameter share one dense layout (channels-last or transposed gradients, say),
    their elements are visited in memory order as they are. Else those that are not contiguous are copied, and
    only those; targets among them receive their values by `write_back`.
    """
    address: list[int] = []  # [parameter * tasks + task], 0 for None
    size: list[int] = []  # elements of each parameter
    dtype: list[int] = []
    to: list[list[int]] = [[] for _ in targets]  # address of every parameter's target, 0 for None
    groups, copies = [], []
    for p in range(len(tensors) // tasks):
        written = [target[p] for target in targets]
        group = aligned([*tensors[p * tasks : (p + 1) * tasks], *written])
        first = next((t for t in group[:tasks] if t is not None), None)
        address.extend([0 if t is None else t.data_ptr() for t in group[:tasks]])
        size.append(0 if first is None else first.numel())
        dtype.append(0 if first is None else DTYPES[first.dtype])
        groups.append(group)
        for column, original, used in zip(to, written, group[tasks:], strict=True):
            column.append(0 if used is None else used.data_ptr())
            if original is not None and used is not None and used is not original:
                copies.append((original, used))
    return Operands(_C.Operands(tasks, address, size, dtype, to), groups, copies)


def aligned(group: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Tensors of one shape in one memory order: as they are where their layouts agree, else contiguous."""
    present = [t for t in group if t is not None]
    if all(is_plain_contiguous(t) for t in present) or share_dense_layout(present):
        return list(group)
    return [t if t is None or is_plain_contiguous(t) else t.resolve_neg().contiguous() for t in group]


def is_plain_contiguous(t: Tensor) -> bool:
    """Row-major, and memory holds the values themselves (not their negatives, see `torch.resolve_neg`)."""
    return t.is_contiguous() and not t.is_neg()


def share_dense_layout(tensors: Sequence[Tensor]) -> bool:
    """True where all tensors have the same strides and these enumerate memory without gap or overlap."""
    strides = tensors[0].stride()
    if any(t.stride() != strides or t.is_neg() for t in tensors):
        return False
    expected = 1
    for stride, extent in sorted(zip(strides, tensors[0].shape, strict=True)):
        if extent != 1:
            if stride != expected:
                return False
            expected *= extent
    return True
