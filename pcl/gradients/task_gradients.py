"""One gradient per task: the entry, and the choice of a strategy."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import Tensor, nn

from pcl.gradients.coverage import closures, snapshot, why_not
from pcl.gradients.loop import loop
from pcl.gradients.one_pass import LowMemoryGradients, OnePass, SegmentGradients
from pcl.gradients.result import TaskGradients
from pcl.gradients.tape import Uncovered
from pcl.gradients.workspace import Workspace
from pcl.notices import say_once

Strategy = Literal["auto", "loop", "segment", "lowmem"]

Loss = Callable[..., Tensor]


def task_gradients(
    losses: Mapping[str, Loss],
    shared: Sequence[Tensor],
    own: Sequence[Tensor] = (),
    *,
    model: Callable[[Any], Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    root: nn.Module | None = None,
    strategy: Strategy = "auto",
    workspace: Workspace | None = None,
) -> TaskGradients:
    """g_i = d loss_i / d shared for every task i, and sum_i d loss_i / d own.

    Two forms::

        task_gradients({"a": lambda: loss_a(model(x_a)), ...}, shared, own)
        task_gradients({"a": loss_a, ...}, shared, own, model=model, inputs={"a": x_a, ...})

    The first takes any model. The second says what the tasks have in common: loss_a gets ``model(x_a)``. Then the model
    can run once for all tasks, and these strategies can be chosen, which give the same numbers up to rounding:

    - "loop": one forward and backward pass per task.
    - "segment": one for all tasks; the gradient of every layer is split by task. Linear, convolutions, Embedding,
      LayerNorm, GroupNorm and BatchNorm, which normalises every task by its own batch, may own shared parameters.
    - "lowmem": the same without ever storing k gradients; the direction takes one more backward pass.
    - "auto": "segment" where there are several tasks and the model is covered, else "loop".

    Whether a model is covered is found out by running its first two tasks both ways, once per workspace. A model that
    is not runs in the loop, and a warning says once why: layers of other types with shared parameters, dropout (whose
    random numbers depend on the batches), samples that meet across rows, an output that is not one tensor with a row
    for every row of the input.

    Args:
        losses: for each task a function that returns its scalar loss: of nothing, or of the model's output.
        shared: parameters whose task gradients are kept apart.
        own: parameters whose task gradients are summed.
        model, inputs: the model that all tasks run, and for each task its input.
        root: the module that contains all layers with shared parameters, if the losses use some too; default the
            model.
        strategy: see above.
        workspace: kept between calls, see :class:`Workspace`; without one, everything is found out and allocated anew.

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
    if strategy == "loop" or len(losses) == 1:
        return loop(closures(model, inputs, losses), shared, own)
    workspace = Workspace() if workspace is None else workspace
    root = model if root is None and isinstance(model, nn.Module) else root
    why = why_not(losses, shared, own, model, inputs, root, workspace)
    if not why and root is not None:
        restore = snapshot(root)
        try:
            run = OnePass(losses, shared, own, model, inputs, root)
            if strategy == "lowmem":
                return LowMemoryGradients(tuple(losses), run, shared)
            return SegmentGradients(tuple(losses), run, shared, workspace)
        except Uncovered as reason:
            why = str(reason)
            restore()
    say_once(f"task gradients take one backward pass per task: {why}")
    return loop(closures(model, inputs, losses), shared, own)
