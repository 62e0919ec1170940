"""How much a function of the logits depends on every parameter: the mean over samples of |its gradient|^p."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from pcl.gradients.task_gradients import task_gradients
from pcl.gradients.workspace import Workspace
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode

AT_ONCE = 16  # samples whose gradients are held together


def sensitivity(
    model: ContinualModel,
    task: str,
    x: Tensor,
    of: Callable[[Tensor, slice], Tensor],
    parameters: Mapping[str, Tensor],
    power: int,
) -> dict[str, Tensor]:
    """S_j = 1/n sum_b |d f_b / d theta_j|^p, the model being in evaluation mode.

    The engine that finds one gradient per task (:func:`pcl.task_gradients`) finds them here per sample.

    Args:
        task: whose logits.
        x: ``(n, ...)``.
        of: ``of(logits, rows)`` are the f_b ``(m,)`` of the samples in these m rows, given their logits
            ``(m, columns)``.
        parameters: by name.
        power: p, 1 or 2.

    Returns:
        S, by name, in the shapes of the parameters; 0 where f does not depend on one.
    """
    totals = [torch.zeros_like(p) for p in parameters.values()]
    workspace = Workspace()

    def loss(row: int, features: Tensor) -> Tensor:
        return of(model.logits(features, task), slice(row, row + 1)).sum()

    with evaluation_mode(model):
        for start in range(0, len(x), AT_ONCE):
            rows = range(start, min(start + AT_ONCE, len(x)))
            found = task_gradients(
                {str(row): partial(loss, row) for row in rows}, list(parameters.values()), model=model.backbone,
                inputs={str(row): x[row : row + 1] for row in rows}, root=model, workspace=workspace,
            )  # fmt: skip
            with torch.no_grad():
                for gradient in found.each():
                    for total, g in zip(totals, gradient, strict=True):
                        if g is not None:
                            total.add_(g.abs() if power == 1 else g.square())
    return {name: total.div_(len(x)) for name, total in zip(parameters, totals, strict=True)}
