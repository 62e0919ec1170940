"""One gradient per task: the entry, and the choice of a strategy."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor

from pcl.gradients.loop import loop
from pcl.gradients.result import TaskGradients

Strategy = Literal["auto", "loop"]


class Workspace:
    """What is kept from one call of :func:`task_gradients` to the next: buffers, and what was found out before.

    One workspace serves one training loop.
    """


def task_gradients(
    losses: Mapping[str, Callable[..., Tensor]],
    shared: Sequence[Tensor],
    own: Sequence[Tensor] = (),
    *,
    model: Callable[[Any], Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    strategy: Strategy = "auto",
    workspace: Workspace | None = None,
) -> TaskGradients:
    """g_i = d loss_i / d shared for every task i, and sum_i d loss_i / d own.

    Two forms::

        task_gradients({"a": lambda: loss_a(model(x_a)), ...}, shared, own)
        task_gradients({"a": loss_a, ...}, shared, own, model=model, inputs={"a": x_a, ...})

    The first takes any model. The second says what the tasks have in common, which lets other strategies than the
    loop do the work once: loss_a gets ``model(x_a)``.

    Args:
        losses: for each task a function that returns its scalar loss: of nothing, or of the model's output.
        shared: parameters whose task gradients are kept apart.
        own: parameters whose task gradients are summed.
        model, inputs: the model that all tasks run, and for each task its input.
        strategy: "auto" or "loop".
        workspace: kept between calls, see :class:`Workspace`.

    Raises:
        ValueError: for no task, an unknown strategy, a model without inputs, or inputs of other tasks than the
            losses.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy: expected one of {', '.join(get_args(Strategy))}; got {strategy!r}")
    if not losses:
        raise ValueError("task_gradients: expected the loss of at least one task; got none")
    if (model is None) != (inputs is None):
        raise ValueError("task_gradients: model and inputs go together; pass both, or losses of no argument")
    if model is None or inputs is None:
        return loop(losses, shared, own)
    if list(inputs) != list(losses):
        raise ValueError(
            f"task_gradients: inputs and losses must have the same tasks in the same order; got {list(inputs)} "
            f"and {list(losses)}"
        )
    return loop({task: partial(_run, model, inputs[task], loss_of) for task, loss_of in losses.items()}, shared, own)


def _run(model: Callable[[Any], Any], x: Any, loss_of: Callable[[Any], Tensor]) -> Tensor:
    return loss_of(model(x))
