"""From task gradients to the direction of a step."""

from torch import Tensor

from pcl.gradients.dense_gradients import DenseGradients, DenseLoss
from pcl.gradients.grouped import GroupedGradients
from pcl.gradients.result import Gradient, TaskGradients
from pcl.gradients.summed import SummedLoss
from pcl.training.checks import check_weight_shape
from pcl.training.guard import Guard
from pcl.weighting.base import GradientWeighting, Weighting, sees_groups, steers


def direction(
    weighting: Weighting | GradientWeighting,
    found: TaskGradients | SummedLoss | DenseLoss | GroupedGradients,
    gram: Tensor | None,
    guard: Guard,
    rate: float | None = None,
) -> tuple[Gradient | None, Tensor]:
    """d for the shared parameters, and how much of each task is in it, ``(k,)``.

    Args:
        weighting: asked for d, or for weights that combine the gradients to d.
        found: the task gradients, those of groups of tasks, or the losses before their backward pass where nothing else
            is needed.
        gram: the Gramian of the task gradients, or None.
        guard: looks at that of groups.
        rate: the update goes down d by this learning rate and does nothing else. Gradients that can do it while they
            are found do it here and now; d is None then.

    Raises:
        ValueError: for another number of weights than of gradients.
    """
    if steers(weighting):
        assert isinstance(found, TaskGradients)
        d, weights = weighting.direction(found, found.tasks)
        check_weight_shape(weights, found.tasks)
        return d, weights
    if isinstance(found, GroupedGradients):
        assert sees_groups(weighting)
        names, gram = [" + ".join(group) for group in found.groups], found.gramian()
        guard.check_gradients(names, found.group_losses(), gram)
        weights = weighting.of_groups(gram, [len(group) for group in found.groups])
        check_weight_shape(weights, names)
        return found.combine(weights), found.to_tasks(weights)
    # mypy does not see that it is no GradientWeighting; the Gramian is None where it needs none
    weights = weighting(gram, found.losses, found.tasks)  # type: ignore[operator, arg-type]
    check_weight_shape(weights, found.tasks)
    if rate is not None and isinstance(found, (DenseLoss, DenseGradients)):
        guard.check_update(found.tasks, None, found.losses, gram, weights, [])
        if found.descend(weights, rate):
            return None, weights
    return found.combine(weights), weights
