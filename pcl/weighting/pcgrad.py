"""PCGrad: project conflicting gradients."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pcl.devices import to_device
from pcl.randomness import drawn_seed, generator
from pcl.weighting.base import Needs
from pcl.weighting.scale import Scale, checked_scale, scaled
from pcl_kernels import pcgrad, random_orders


class PCGrad:
    """Every task's gradient, in turn and in random order, loses its part against each other one it conflicts with;
    the direction is the sum of what is left (Yu, Kumar, Gupta, Levine, Hausman and Finn, "Gradient Surgery for
    Multi-Task Learning", NeurIPS 2020, arXiv 2001.06782, Alg. 1; :func:`pcl_kernels.pcgrad`).

    The weights are at least 1 and sum to k without conflicts, to more with them; ``scale="unit"`` divides them by their
    sum. A task whose gradient is zero neither changes the others nor is changed; its weight is 1, as is that of
    a single task. For two tasks the direction conflicts with neither; for more it may.

    Args:
        orders: random orders to draw in every step, over which the weights are averaged. 1 is the paper's; more take
            away the chance in the direction, at no further passes over the gradients.
        scale: ``"paper"`` or ``"unit"``.
        seed: of the draws, which are the weighting's own; the same seed gives the same orders.

    Raises:
        ValueError: for ``orders`` below 1 or an unknown ``scale``.
    """

    needs: Needs = "gram"
    capturable = False

    def __init__(self, *, orders: int = 1, scale: Scale = "paper", seed: int = 0) -> None:
        if orders < 1:
            raise ValueError(f"PCGrad orders: expected at least 1, got {orders}")
        self.orders = orders
        self.scale = checked_scale(scale, "PCGrad")
        self._draws = generator(seed, "weighting", "pcgrad")

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        batch = None if self.orders == 1 else self.orders
        orders = random_orders(len(tasks), drawn_seed(self._draws), batch)
        weights = pcgrad(gram, to_device(orders, gram.device))
        if batch is not None:
            weights = weights.mean(dim=0)
        return scaled(weights, self.scale)

    def forget(self, task: str) -> None:
        """Nothing is remembered of a task."""

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stands."""
        return {"draws": self._draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the draws of the state."""
        self._draws.set_state(state["draws"])
