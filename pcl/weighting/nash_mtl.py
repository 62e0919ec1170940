"""Nash-MTL: task weights as the outcome of a bargain."""

from collections.abc import Mapping

from pcl.weighting.fairgrad import FairGrad
from pcl.weighting.scale import Scale


class NashMTL(FairGrad):
    """The direction of the Nash bargaining solution: all tasks gain the same proportion (Navon et al., "Multi-Task
    Learning as a Bargaining Game", ICML 2022, arXiv 2202.01017, Claim 3.1).

    The weights a > 0 solve G a = 1 / a, so that a_i <g_i, d> = 1 for every task, whatever the scale of its loss. With a
    preference p, the asymmetric bargain, a_i <g_i, d> = k p_i. The direction has length sqrt(k) however long the
    gradients are; ``scale="unit"`` divides the weights by their sum. At a Pareto stationary point, as where a gradient
    is zero, there is no solution: the weights stay as they were, and are 1 / k at the beginning.

    Args:
        update_every: solve every so many steps, and whenever the set of tasks changes; in between the weights stay.
        scale: ``"paper"`` or ``"unit"``.
        preference: how much each task counts, by name; tasks not named count 1. None means all the same.

    Raises:
        ValueError: for ``update_every`` below 1, an unknown ``scale``, or a preference that is not a finite number
            above 0.
    """

    def __init__(
        self,
        *,
        update_every: int = 1,
        scale: Scale = "paper",
        preference: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(1.0, update_every=update_every, scale=scale, preference=preference)
