"""Weighted sum and optimizer step in one pass: signatures, checks, dispatch. See csrc/combine_update.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from pcl_kernels import _C
from pcl_kernels._gradients import Grads, TaskGradients, operands, read
from pcl_kernels._registry import define, plain, unobserved
from pcl_kernels.combine.op import read_weights

Tensors = Sequence[Tensor]


def combine_sgd_(
    params: Tensors,
    grads: Grads,
    weights: Tensor | Sequence[float],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    momentum_buffers: Tensors | None = None,
    first_step: bool = False,
) -> None:
    """One step of SGD along d = Σ_i w_i g_i, written into `params`; d itself never reaches memory.

    As `torch.optim.SGD` with `.grad = d`, up to rounding (float64 arithmetic, each element rounded once):
    d ← d + weight_decay θ, b ← momentum b + (1 - dampening) d, θ ← θ - lr b; with Nesterov
    θ ← θ - lr (d + momentum b).
    Parameters for which every task has None are left alone.

    Args:
        params: the P parameters, of the shapes and dtypes of their gradients; they may require grad.
        grads: gradients of k tasks, in the forms of `gramian`; P is 1 unless they are lists.
        weights: `(k,)` tensor or k numbers. Negate them to ascend.
        momentum_buffers: P tensors like `params`, needed and written if momentum is not 0.
        first_step: buffers are set to d unread, as `torch.optim.SGD` does in its first step.

    Raises:
        TypeError, ValueError: as `combine`, or for params and buffers that do not match the gradients, or
            momentum without buffers, or Nesterov without momentum or with dampening. Nothing is changed then.
    """
    op = "combine_sgd_"
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError(f"{op}: nesterov needs momentum > 0 and dampening = 0; got {momentum} and {dampening}")
    if momentum and momentum_buffers is None:
        raise ValueError(f"{op}: momentum {momentum} needs momentum_buffers, one per parameter; got None")
    settings = (float(lr), float(momentum), float(dampening), float(weight_decay), bool(nesterov), bool(first_step))
    written = (params, momentum_buffers) if momentum and momentum_buffers is not None else (params,)
    if _usual(_C.combine_sgd, written, grads, weights, settings):
        return
    task_gradients = read(grads, op)
    w = read_weights(weights, task_gradients, op)
    used = _matching(task_gradients, op, params=params)
    if momentum and momentum_buffers is not None:
        used += _matching(task_gradients, op, momentum_buffers=momentum_buffers)
    else:
        used.append([])
    _run(_sgd_cpu, _sgd_op, used, task_gradients, w, settings)


def combine_adamw_(
    params: Tensors,
    grads: Grads,
    weights: Tensor | Sequence[float],
    *,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    step: int,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    decoupled: bool = True,
) -> None:
    """One step of AdamW (or Adam) along d = Σ_i w_i g_i, written into `params`; d never reaches memory.

    As `torch.optim.AdamW` with `.grad = d`, up to rounding (float64 arithmetic, each element rounded once):
    m ← β₁m + (1-β₁)d, v ← β₂v + (1-β₂)d², θ ← (1 - lr weight_decay)θ - lr m̂ / (√v̂ + eps), with
    m̂ = m/(1-β₁^step) and v̂ = v/(1-β₂^step). Parameters for which every task has None are left alone.

    Args:
        params: the P parameters, of the shapes and dtypes of their gradients; they may require grad.
        grads: gradients of k tasks, in the forms of `gramian`; P is 1 unless they are lists.
        weights: `(k,)` tensor or k numbers. Negate them to ascend.
        exp_avgs, exp_avg_sqs: m and v, P tensors each, like `params`; zeros before the first step.
        step: 1 in the first step.
        decoupled: False adds weight_decay θ to d in place of shrinking θ: `torch.optim.Adam`.

    Raises:
        TypeError, ValueError: as `combine`, or for params and moments that do not match the gradients, or a
            step below 1. Nothing is changed then.
    """
    op = "combine_adamw_"
    if step < 1:
        raise ValueError(f"{op}: step counts from 1; got {step}")
    beta1, beta2 = betas
    settings = (int(step), float(lr), float(beta1), float(beta2), float(eps), float(weight_decay), bool(decoupled))
    if _usual(_C.combine_adamw, (params, exp_avgs, exp_avg_sqs), grads, weights, settings):
        return
    task_gradients = read(grads, op)
    w = read_weights(weights, task_gradients, op)
    used = _matching(task_gradients, op, params=params, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
    _run(_adamw_cpu, _adamw_op, used, task_gradients, w, settings)


def _usual(compiled: Any, written: tuple[Tensors, ...], grads: Any, weights: Any, settings: tuple[Any, ...]) -> bool:
    """Do the step where all is as usual (see csrc/operands.cpp); False, and nothing done, where it is not."""
    if not unobserved() or any(isinstance(w, Tensor) for w in written):
        return False
    operands = _C.read(grads, written, False, False)
    if operands is None or not compiled(operands, weights, *settings, torch.get_num_threads()):
        return False
    for tensors in written:
        increment_version(tensors)
    return True


def _matching(grads: TaskGradients, op: str, **lists: Tensors) -> list[list[Tensor]]:
    """Of each list the tensors whose parameter has a gradient, all checked against it."""
    used: list[list[Tensor]] = []
    for name, tensors in lists.items():
        if len(tensors) != grads.parameters:
            raise ValueError(f"{op}: {name} must have one tensor per parameter, {grads.parameters}; got {len(tensors)}")
        used.append([])
        for p, t in enumerate(tensors):
            first = next((g for g in grads.of(p) if g is not None), None)
            if first is None:
                continue
            if not isinstance(t, Tensor):  # said again at run time
                raise TypeError(f"{op}: {name}[{p}]: expected a tensor; got {type(t).__name__}")
            for what, expected, got in (
                ("dtype", first.dtype, t.dtype),
                ("shape", tuple(first.shape), tuple(t.shape)),
                ("device", first.device, t.device),
            ):
                if expected != got:
                    error = TypeError if what == "dtype" else ValueError
                    raise error(f"{op}: {name}[{p}]: expected {what} {expected} as its gradients; got {got}")
            used[-1].append(t)
    return used


@torch.no_grad()
def _run(cpu: Any, op: Any, used: list[list[Tensor]], grads: TaskGradients, weights: Tensor, settings: Any) -> None:
    tensors = [t for p in range(grads.parameters) for t in _if_any(grads.of(p))]
    written = [t for ts in used for t in ts]
    direct = plain(*grads.present(), weights) and all(t.is_cpu for t in written)
    (cpu if direct else op)(*used, tensors, weights, grads.tasks, *settings)
    if direct:
        increment_version(written)


def _if_any(group: list[Tensor | None]) -> list[Tensor | None]:
    return group if any(t is not None for t in group) else []


def _sgd_cpu(
    params: Tensors, buffers: Tensors, tensors: Sequence[Tensor | None], w: Tensor, tasks: int, *settings: Any
) -> None:
    found = operands(tensors, tasks, params, *([buffers] if buffers else []))
    call: Any = (found.compiled, w.tolist(), *settings, torch.get_num_threads())
    _C.combine_sgd(*call)
    found.write_back()


def _adamw_cpu(
    params: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    tensors: Sequence[Tensor | None],
    w: Tensor,
    tasks: int,
    *settings: Any,
) -> None:
    found = operands(tensors, tasks, params, exp_avgs, exp_avg_sqs)
    call: Any = (found.compiled, w.tolist(), *settings, torch.get_num_threads())
    _C.combine_adamw(*call)
    found.write_back()


def _fake(*_: Any) -> None:
    return None


_sgd_op = define(
    "combine_sgd_(Tensor(a!)[] params, Tensor(b!)[] buffers, Tensor?[] grads, Tensor weights, int tasks, "
    "float lr, float momentum, float dampening, float weight_decay, bool nesterov, bool first_step) -> ()",
    cpu=_sgd_cpu,
    fake=_fake,
    cuda="pcl_kernels.combine_update.triton:combine_sgd_",
)
_adamw_op = define(
    "combine_adamw_(Tensor(a!)[] params, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor?[] grads, "
    "Tensor weights, int tasks, int step, float lr, float beta1, float beta2, float eps, float weight_decay, "
    "bool decoupled) -> ()",
    cpu=_adamw_cpu,
    fake=_fake,
    cuda="pcl_kernels.combine_update.triton:combine_adamw_",
)
