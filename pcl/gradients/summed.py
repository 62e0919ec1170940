"""One backward pass for all tasks: for weights that follow from the losses alone."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pcl.gradients.joined import joins, outputs
from pcl.gradients.result import Gradient
from pcl.gradients.workspace import Workspace


class SummedLoss:
    """The direction d = sum_i w_i g_i by one backward pass, with weights that are chosen once the losses are known.

    The forward passes of all tasks are made at once, where the model allows it as one over the rows of all
    (:mod:`pcl.gradients.joined`), and their graphs kept until :meth:`combine` runs through them. As in
    :class:`~pcl.gradients.result.TaskGradients`, the remaining parameters get the gradient of the sum of all losses,
    without weights: they are reached before the model's output, the shared ones behind it, so that the
    gradient is weighted there, on its way back.

    Args:
        losses: for each task a function from the model's output to its scalar loss.
        shared: parameters of the model.
        own: parameters that only the functions in ``losses`` use. Where there are none, ``shared`` may hold those too.
        model, inputs: the model that all tasks run, and for each task its input.
        workspace: where it is kept whether one pass does; None for a pass per task.
        together: all losses ``(k,)`` from the output of one pass over the rows of all tasks in their order, as
            ``losses`` has them one by one; None where there is no shorter way.

    Attributes:
        tasks: the k tasks.
        losses: ``(k,)``, detached.
        own: the gradient of the sum of all losses with respect to ``own``; there after :meth:`combine`.
    """

    def __init__(
        self,
        losses: Mapping[str, Callable[[Tensor], Tensor]],
        shared: Sequence[Tensor],
        own: Sequence[Tensor],
        *,
        model: Callable[[Any], Tensor],
        inputs: Mapping[str, Any],
        workspace: Workspace | None = None,
        together: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.tasks = tuple(losses)
        self.own: Gradient = []
        self._shared, self._others = list(shared), list(own)
        joined = workspace is not None and joins(model, inputs, losses, [*shared, *own], workspace)
        self._sizes: list[int] | None = None  # of the tasks' rows in one output for all
        if joined and together is not None:
            self._outputs, self._sizes = [model(torch.cat(list(inputs.values())))], [len(x) for x in inputs.values()]
            self._values = together(self._outputs[0])
        else:
            self._outputs = outputs(model, inputs, joined=joined)
            self._values = torch.stack([of(output) for of, output in zip(losses.values(), self._outputs, strict=True)])
        self.losses = self._values.detach()

    def combine(self, weights: Tensor) -> Gradient:
        """d, one tensor per shared parameter, None where no loss depends on it; once only, for the graphs are freed.

        Args:
            weights: ``(k,)``.
        """
        if self._others:
            on_cpu = weights.is_cpu  # elsewhere a look at them would be a wait
            if not on_cpu or set(weights.tolist()) != {1.0}:
                self._weigh(weights.unbind())
            total = self._values.sum()
        else:
            total = (self._values * weights).sum()
        found = torch.autograd.grad(total, [*self._shared, *self._others], allow_unused=True)
        self.own = list(found[len(self._shared) :])
        return list(found[: len(self._shared)])

    def _weigh(self, weights: Sequence[Tensor]) -> None:
        if self._sizes is not None:
            (output,), sizes = self._outputs, self._sizes
            if output.requires_grad:
                output.register_hook(lambda gradient: torch.cat(list(map(_scaled, weights, gradient.split(sizes)))))
            return
        for output, weight in zip(self._outputs, weights, strict=True):
            if output.requires_grad:
                output.register_hook(partial(_scaled, weight))


def _scaled(weight: Tensor, gradient: Tensor) -> Tensor:
    if gradient.dtype in (torch.bfloat16, torch.float16):
        return (weight * gradient.float()).to(gradient.dtype)  # a weight in bfloat16 would be off by up to 0.4 %
    return weight * gradient
