"""Whether the batches of all tasks can run through a model as one, where backward need not tell tasks apart.

One forward pass over all rows reads every weight once. It is right for a model that treats each row by itself, which
types of layers alone do not tell (see :mod:`pcl.gradients.coverage`): so the first two tasks run both ways once.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from pcl.gradients.coverage import Loss, differs, every_output, fills_the_caches, tolerance, without_trace
from pcl.gradients.workspace import Workspace
from pcl.parts import modules


def outputs(model: Callable[[Any], Tensor], inputs: Mapping[str, Any], *, joined: bool) -> list[Tensor]:
    """What the model makes of every task's input, ``(B_i, ...)`` each."""
    if not joined:
        return [model(x) for x in inputs.values()]
    return list(model(torch.cat(list(inputs.values()))).split([len(x) for x in inputs.values()]))


def joins(
    model: Callable[[Any], Tensor],
    inputs: Mapping[str, Any],
    losses: Mapping[str, Loss],
    wanted: Sequence[Tensor],
    workspace: Workspace,
) -> bool:
    """Whether one pass over the inputs of all tasks gives what a pass for each does, and is no slower.

    Never for a model that is not a module, mixes rows, as normalisation by statistics of the batch does, draws random
    numbers or changes buffers, and, on a CPU, for one with convolutions whose single batches already fill the caches.

    Args:
        wanted: parameters whose gradient will be asked for.
    """
    if not isinstance(model, nn.Module) or len(inputs) == 1:
        return False
    batches = list(inputs.values())
    if not all(isinstance(x, Tensor) and x.dim() and len(x) for x in batches):
        return False
    like = batches[0]
    if any(x.shape[1:] != like.shape[1:] or x.dtype != like.dtype or x.device != like.device for x in batches[1:]):
        return False
    modes = tuple([module.training for module in modules(model)])
    autocast = like.device.type != "meta" and torch.is_autocast_enabled(like.device.type)
    if fills_the_caches(model, inputs):  # asked in every step, so that a run that is resumed in another one agrees
        return False
    key = ("joined", id(model), modes, len(wanted), like.shape[1:], like.dtype, like.device, autocast)
    if key not in workspace.verdicts:
        alike = _alike(model, inputs, losses, wanted, autocast)
        if alike is None:
            return False
        workspace.verdicts[key] = "" if alike else "rows depend on each other"
    return not workspace.verdicts[key]


def _alike(
    model: nn.Module,
    inputs: Mapping[str, Any],
    losses: Mapping[str, Loss],
    wanted: Sequence[Tensor],
    autocast: bool,
) -> bool | None:
    """Whether both ways give the same; None where the batches do not tell."""
    two = dict(islice(inputs.items(), 2))
    before = [buffer.clone() for buffer in model.buffers()]

    def gradient(joined: bool) -> list[Tensor | None]:
        pairs = enumerate(zip(two, outputs(model, two, joined=joined), strict=True))
        total = torch.stack([(1 + i) * every_output(losses[task], out) for i, (task, out) in pairs]).sum()
        return [total.detach(), *torch.autograd.grad(total, list(wanted), allow_unused=True)]

    with without_trace(model, wanted[0].device) as (_, drawn):
        try:
            apart = gradient(joined=False)
            leaves_a_trace = drawn() or any(not torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
            if not all(bool(g.isfinite().all()) for g in apart if g is not None):
                return None
            limit = tolerance(wanted[0].dtype, autocast)
            return not (leaves_a_trace or differs(apart, gradient(joined=True), limit))
        except Exception:  # whatever a model says to the batches of two tasks together
            return False
