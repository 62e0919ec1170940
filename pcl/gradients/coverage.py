"""Whether one pass over all tasks gives what the loop gives: found out by running both.

Types of layers alone do not tell. A model may mix samples of a batch, fold them into rows in another order, use a
layer's weight without running the layer, or draw random numbers. So the first two tasks run both ways once; what is
compared are losses, gradients of every parameter, and buffers such as running statistics.
"""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pcl.gradients.loop import loop
from pcl.gradients.one_pass import OnePass, OnePassGradients
from pcl.gradients.result import Gradient, TaskGradients
from pcl.gradients.tape import Uncovered
from pcl.gradients.workspace import Workspace
from pcl.randomness import global_generators, set_global_generators

Loss = Callable[[Any], Tensor]

# Far above rounding, which deep networks amplify, and far below the effect of a sample in the wrong task.
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_LOW_PRECISION = 0.05
_SMALL_BATCH = 4  # samples a task, up to which convolutions on a CPU gain from one pass (bench/steps.py)


def why_not(
    losses: Mapping[str, Loss],
    shared: Sequence[Tensor],
    own: Sequence[Tensor],
    model: Callable[[Any], Any],
    inputs: Mapping[str, Any],
    root: nn.Module | None,
    workspace: Workspace,
) -> str:
    """Why one pass does not do for this model and these inputs, in words; "" where it does."""
    if root is None:
        return "the model is not a module"
    if any(hasattr(module, "_orig_mod") for module in root.modules()):
        return "the model is compiled"
    if not all(isinstance(x, Tensor) and x.dim() and len(x) for x in inputs.values()):
        return "inputs are not tensors with a row for every sample"
    kinds = {(x.shape[1:], x.dtype, x.device) for x in inputs.values()}
    if len(kinds) != 1:
        return "the tasks' inputs differ in shape, dtype or device"
    (kind,) = kinds
    modes = tuple(module.training for module in root.modules())
    autocast = torch.is_autocast_enabled(kind[2].type)
    # a lambda is another object in every step, its code is not
    key = (getattr(model, "__code__", model), root, modes, tuple(map(id, shared)), *kind, autocast)
    if key not in workspace.verdicts:
        verdict = _compare(losses, shared, own, model, inputs, root, autocast)
        if verdict is None:
            return "the first batches give numbers that are not finite"
        workspace.verdicts[key] = verdict
    return workspace.verdicts[key]


def closures(model: Callable[[Any], Any], inputs: Mapping[str, Any], losses: Mapping[str, Loss]) -> dict[str, Any]:
    """The losses as functions of nothing."""
    return {task: partial(_run, model, inputs[task], loss_of) for task, loss_of in losses.items()}


def _run(model: Callable[[Any], Any], x: Any, loss_of: Loss) -> Tensor:
    return loss_of(model(x))


def snapshot(root: nn.Module) -> Callable[[], None]:
    """A function that puts buffers back to what they are now."""
    before = [(buffer, buffer.clone()) for buffer in root.buffers()]

    def restore() -> None:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)

    return restore


@contextmanager
def without_trace(root: nn.Module, device: torch.device) -> Iterator[tuple[Callable[[], None], Callable[[], bool]]]:
    """Afterwards buffers and torch's global generators are as before the block, which gets two functions: one that puts
    the buffers back at once, and one that says whether anything has been drawn."""
    restore, states = snapshot(root), global_generators(device)
    try:
        yield restore, lambda: any(map(operator.not_, map(torch.equal, states, global_generators(device))))
    finally:
        restore()
        set_global_generators(states, device)


def _compare(
    losses: Mapping[str, Loss],
    shared: Sequence[Tensor],
    own: Sequence[Tensor],
    model: Callable[[Any], Any],
    inputs: Mapping[str, Any],
    root: nn.Module,
    autocast: bool,
) -> str | None:
    """As :func:`why_not`; None where the batches do not tell."""
    two = {task: partial(every_output, loss_of) for task, loss_of in islice(losses.items(), 2)}
    of_two = {task: inputs[task] for task in two}
    with without_trace(root, shared[0].device) as (restore, drawn):
        expected = loop(closures(model, of_two, two), shared, own)
        drew = drawn()
        if not all(bool(g.isfinite().all()) for gradient in expected.each() for g in gradient if g is not None):
            return None
        if drew:
            return "the model draws random numbers, as dropout does"
        buffers = [buffer.clone() for buffer in root.buffers()]
        restore()
        try:
            found = OnePassGradients(tuple(two), OnePass(two, shared, own, model, of_two, root), shared, Workspace())
            return _difference(expected, found, buffers, list(root.buffers()), autocast)
        except Uncovered as reason:
            return str(reason)
        except Exception as error:  # whatever a model that the loop can run says to a batch of two tasks
            return f"on the batches of two tasks together it fails ({type(error).__name__}: {error})".partition("\n")[0]


def every_output(loss_of: Loss, out: Any) -> Tensor:
    """The loss and a little of every output, in case the loss alone ignores some, as heads that start at zero do."""
    loss = loss_of(out)
    if isinstance(out, Tensor) and out.is_floating_point():
        loss = loss + (out * torch.arange(out.numel(), device=out.device).cos().view_as(out)).mean()
    return loss


def _difference(
    expected: TaskGradients, found: TaskGradients, buffers: list[Tensor], now: list[Tensor], autocast: bool
) -> str:
    far = partial(differs, tolerance=tolerance(expected.losses.dtype, autocast))
    if far([expected.losses], [found.losses]):
        return "a task's loss is another when the batches of other tasks run along"
    if any(far(a, b) for a, b in zip(expected.each(), found.each(), strict=True)) or far(expected.own, found.own):
        return "a task's gradient is another when the batches of other tasks run along"
    if any(far([a], [b]) for a, b in zip(buffers, now, strict=True)):
        return "running statistics or other buffers end up different from one pass per task"
    return ""


def tolerance(dtype: torch.dtype, autocast: bool) -> float:
    """How far numbers that should be the same may be apart, see :func:`differs`."""
    return _LOW_PRECISION if autocast else _TOLERANCE.get(dtype, _LOW_PRECISION)


def differs(a: Gradient, b: Gradient, tolerance: float) -> bool:
    """Whether a tensor is in one alone, or apart by more than that share of its norm and a hundredth of all."""
    if [g is None for g in a] != [g is None for g in b]:
        return True
    pairs = [(x.double(), y.double()) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    whole = sum((x.norm() for x, _ in pairs), torch.zeros((), dtype=torch.float64))
    return any(not bool((x - y).norm() <= tolerance * (x.norm() + 0.01 * whole)) for x, y in pairs)


def fills_the_caches(root: nn.Module | None, inputs: Mapping[str, Any]) -> bool:
    """Whether every task's batch alone keeps a CPU busy with convolutions, as measured in bench/steps.py."""
    batches = list(inputs.values())
    if root is None or not all(isinstance(x, Tensor) and x.dim() and x.is_cpu for x in batches):
        return False
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return sum(map(len, batches)) > _SMALL_BATCH * len(batches) and any(
        isinstance(m, convolutions) for m in root.modules()
    )
