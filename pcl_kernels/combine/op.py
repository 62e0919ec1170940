"""The weighted sum of task gradients: signature, checks, dispatch, autograd. Kernel: csrc/combine.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from pcl_kernels import _C
from pcl_kernels._gradients import Grads, TaskGradients, aligned, operands, read
from pcl_kernels._pointers import upload
from pcl_kernels._registry import define, plain, unobserved


@overload
def combine(
    grads: Tensor | Sequence[Tensor],
    weights: Tensor | Sequence[float],
    *,
    out: Tensor | None = None,
    accumulate: bool = False,
) -> Tensor: ...
@overload
def combine(
    grads: Sequence[Sequence[Tensor | None]],
    weights: Tensor | Sequence[float],
    *,
    out: Sequence[Tensor | None] | None = None,
    accumulate: bool = False,
) -> list[Tensor | None]: ...
def combine(
    grads: Grads,
    weights: Tensor | Sequence[float],
    *,
    out: Tensor | Sequence[Tensor | None] | None = None,
    accumulate: bool = False,
) -> Tensor | list[Tensor | None]:
    """The weighted sum d = Σ_i w_i g_i of k task gradients, in the shape of one task's gradients.

    One pass over the gradients where they lie. Every element is summed in float64, in the order of the tasks,
    and rounded once to the gradients' dtype; the result has the same bits for any number of threads.

    Args:
        grads: gradients of k ≥ 1 tasks, in the forms of `gramian`: a `(k, m)` tensor, k tensors of one shape,
            or k lists of per-parameter tensors where None is a gradient of zeros.
        weights: `(k,)` floating-point tensor, or k numbers. Used as float64.
        out: where to write: a tensor of the result's shape and dtype, or a list with one per parameter (None:
            a new one), for instance the parameters' `.grad`. May be one of the gradients itself; must not
            overlap them in another way. Needs gradients and weights that do not require grad.
        accumulate: add to `out` (still rounding once) in place of overwriting it.

    Returns:
        `out` where given, else new tensors: one for a `(k, m)` tensor or k tensors; for lists a list, with
        None exactly where every task has None (and `out` no tensor). Differentiable in grads and weights.

    Raises:
        TypeError: grads or weights of a wrong kind, or dtypes that differ between tasks or from `out`.
        ValueError: no task, or lengths, shapes or devices that do not match, or `accumulate` without `out`.
        RuntimeError: `out` given while gradients or weights require grad.

    Source: EMGD (arXiv 2401.01054), the common direction d = Σ_i λ_i g_i of Algorithm 1.
    """
    if unobserved() and (out is not None or not accumulate):
        usual = _usual(grads, weights, out, accumulate)
        if usual is not None:
            return usual
    task_gradients = read(grads, "combine")
    w = read_weights(weights, task_gradients, "combine")
    if out is None:
        if accumulate:
            raise ValueError("combine: accumulate=True needs out, the tensors to add to; got out=None")
        sums = combine_tensors(task_gradients.tensors, w, task_gradients.tasks)
    else:
        sums = _combine_into(task_gradients, w, out, accumulate)
    if task_gradients.listed:
        return sums
    (d,) = sums
    assert d is not None
    return d


def _usual(grads: Any, weights: Any, out: Any, accumulate: bool) -> Tensor | list[Tensor | None] | None:
    """The result where all is as usual (see csrc/operands.cpp); None, and nothing done, where it is not."""
    refuse_grad = torch.is_grad_enabled()
    if refuse_grad and isinstance(weights, Tensor) and weights.requires_grad:
        return None
    sums: Any = _outputs(grads) if out is None else out
    if sums is None:
        return None
    operands = _C.read(grads, (sums,), refuse_grad, refuse_grad)
    if operands is None or operands.listed == isinstance(sums, Tensor):
        return None
    if not _C.combine(operands, weights, bool(accumulate), torch.get_num_threads()):
        return None
    if out is not None:
        increment_version(sums)
    return list(sums) if operands.listed else sums


def _outputs(grads: Any) -> Tensor | list[Tensor] | None:
    """New tensors like one task's gradients; None where some parameter is not in the first task's."""
    if isinstance(grads, Tensor):
        return torch.empty_like(grads[0]) if grads.dim() == 2 and len(grads) else None
    first = grads[0] if isinstance(grads, list | tuple) and grads else None
    if isinstance(first, Tensor):
        return torch.empty_like(first)
    if isinstance(first, list | tuple) and all(isinstance(g, Tensor) for g in first):
        return [torch.empty_like(g) for g in first]
    return None


def read_weights(weights: Tensor | Sequence[float], grads: TaskGradients, op: str) -> Tensor:
    """`weights` as a float64 tensor `(k,)` on the gradients' device, checked."""
    if isinstance(weights, Tensor):
        if weights.shape != (grads.tasks,):
            raise ValueError(f"{op}: weights must have one entry a task, ({grads.tasks},); got {tuple(weights.shape)}")
        if not weights.is_floating_point():
            raise TypeError(f"{op}: weights must be floating point; got {weights.dtype}. Use .double()")
        return weights.to(grads.device, torch.float64)
    if any(isinstance(w, Tensor) for w in weights):
        raise TypeError(f"{op}: weights must be one (k,) tensor or k numbers; got tensors. Use torch.stack")
    if len(weights) != grads.tasks:
        raise ValueError(f"{op}: weights must have one entry a task, {grads.tasks}; got {len(weights)}")
    return upload([float(w) for w in weights], torch.float64, grads.device)


def combine_tensors(tensors: Sequence[Tensor | None], weights: Tensor, tasks: int) -> list[Tensor | None]:
    """The weighted sum of each parameter's `tensors[parameter * tasks + task]`; None where all are None."""
    present = [t for t in tensors if t is not None]
    if plain(weights, *present):
        sums = _cpu(tensors, weights, tasks)
    elif torch.is_grad_enabled() and any(t.requires_grad for t in (weights, *present)):
        sums = list(_Combine.apply(tasks, weights, *tensors))
    else:
        sums = _op(tensors, weights, tasks)
    rest = iter(sums)
    return [
        next(rest) if any(t is not None for t in tensors[p : p + tasks]) else None
        for p in range(0, len(tensors), tasks)
    ]


def _like(tensors: Sequence[Tensor | None], tasks: int) -> list[Tensor]:
    """New tensors for the sums, laid out as the gradients are where these agree, else contiguous."""
    groups = (aligned(tensors[p : p + tasks]) for p in range(0, len(tensors), tasks))
    firsts = (next((t for t in group if t is not None), None) for group in groups)
    return [torch.empty_like(first) for first in firsts if first is not None]


def _cpu(tensors: Sequence[Tensor | None], weights: Tensor, tasks: int) -> list[Tensor]:
    sums = _like(tensors, tasks)
    _cpu_into(tensors, weights, tasks, sums, False)
    return sums


def _cpu_into(
    tensors: Sequence[Tensor | None], weights: Tensor, tasks: int, out: Sequence[Tensor], accumulate: bool
) -> None:
    rest = iter(out)
    targets = [
        next(rest) if any(t is not None for t in tensors[p : p + tasks]) else None
        for p in range(0, len(tensors), tasks)
    ]
    found = operands(tensors, tasks, targets)
    _C.combine(found.compiled, weights.tolist(), bool(accumulate), torch.get_num_threads())
    found.write_back()


def _fake(tensors: Sequence[Tensor | None], weights: Tensor, tasks: int) -> list[Tensor]:
    return _like(tensors, tasks)


def _fake_into(
    tensors: Sequence[Tensor | None], weights: Tensor, tasks: int, out: Sequence[Tensor], accumulate: bool
) -> None:
    return None


#: one sum for every parameter that has a gradient at all
_op = define(
    "combine(Tensor?[] grads, Tensor weights, int tasks) -> Tensor[]",
    cpu=_cpu,
    fake=_fake,
    cuda="pcl_kernels.combine.triton:combine",
)
_op_into = define(
    "combine_into(Tensor?[] grads, Tensor weights, int tasks, Tensor(a!)[] out, bool accumulate) -> ()",
    cpu=_cpu_into,
    fake=_fake_into,
    cuda="pcl_kernels.combine.triton:combine_into",
)


def _combine_into(
    grads: TaskGradients,
    weights: Tensor,
    out: Tensor | Sequence[Tensor | None],
    accumulate: bool,
) -> list[Tensor | None]:
    targets = [out] if isinstance(out, Tensor) else list(out)
    if grads.listed == isinstance(out, Tensor) or len(targets) != grads.parameters:
        expected = f"a list of {grads.parameters} tensors" if grads.listed else "one tensor"
        got = "one tensor" if isinstance(out, Tensor) else f"a list of {len(targets)}"
        raise ValueError(f"combine: out must have the form of one task's gradients, {expected}; got {got}")
    used: list[Tensor] = []
    result: list[Tensor | None] = []
    idle: list[Tensor] = []  # targets of parameters without any gradient
    for p, target in enumerate(targets):
        first = next((t for t in grads.of(p) if t is not None), None)
        if target is not None:
            _check_target(target, first, p)
        if first is None:
            if target is not None:
                idle.append(target)
            result.append(target)
            continue
        if target is None:
            target = torch.zeros_like(first)
        used.append(target)
        result.append(target)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (weights, *grads.present(), *used, *idle)):
        raise RuntimeError(
            "combine: out cannot be written while grads, weights or out require grad. "
            "Call it under torch.no_grad(), or leave out away to differentiate"
        )
    if not accumulate:
        for target in idle:
            target.zero_()
    if plain(weights, *grads.present(), *used):
        _cpu_into(grads.tensors, weights, grads.tasks, used, accumulate)
        increment_version(used)
    else:
        _op_into(grads.tensors, weights, grads.tasks, used, accumulate)
    return result


def _check_target(target: Tensor, first: Tensor | None, p: int) -> None:
    where = f"combine: out of parameter {p}"
    if not isinstance(target, Tensor):  # said again at run time
        raise TypeError(f"{where}: expected a tensor or None; got {type(target).__name__}")
    if first is None:
        return
    if target.dtype != first.dtype:
        raise TypeError(f"{where}: expected the gradients' dtype {first.dtype}; got {target.dtype}")
    if target.shape != first.shape:
        raise ValueError(f"{where}: expected shape {tuple(first.shape)}; got {tuple(target.shape)}")
    if target.device != first.device:
        raise ValueError(f"{where}: expected device {first.device}; got {target.device}")


class _Combine(torch.autograd.Function):
    """∂/∂g_ip = w_i D_p and ∂/∂w_i = Σ_p g_ip · D_p, where D is the gradient of the sum."""

    @staticmethod
    def forward(tasks: int, weights: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(_op(list(tensors), weights, tasks))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.tasks = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *sums: Tensor) -> tuple[Tensor | None, ...]:
        weights, *tensors = ctx.saved_tensors
        k = ctx.tasks
        out: list[Tensor | None] = [None] * len(tensors)
        dots = [weights.new_zeros(()) for _ in range(k)]
        rest = iter(sums)
        for p in range(0, len(tensors), k):
            if all(t is None for t in tensors[p : p + k]):
                continue
            d = next(rest)
            for i in range(k):
                g = tensors[p + i]
                if g is None:
                    continue
                if ctx.needs_input_grad[2 + p + i]:
                    out[p + i] = (weights[i] * d.to(torch.float64)).to(g.dtype)
                if ctx.needs_input_grad[1]:
                    dots[i] = dots[i] + (g.to(torch.float64) * d.to(torch.float64)).sum()
        return (None, torch.stack(dots) if ctx.needs_input_grad[1] else None, *out)
