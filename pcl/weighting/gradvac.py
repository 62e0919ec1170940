"""GradVac: gradients are turned towards the cosines that are usual among them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pcl.devices import to_device
from pcl.randomness import drawn_seed, generator
from pcl.weighting.base import Needs
from pcl.weighting.pair_state import PairState
from pcl.weighting.scale import Scale, checked_scale, scaled
from pcl_kernels import gradvac, random_orders


class GradVac:
    """PCGrad with a target for every ordered pair of tasks: where the cosine of task i's gradient with task j's is
    below the moving average of what it was, the gradient is turned up to it (Wang, Tsvetkov, Firat and Cao, "Gradient
    Vaccine", ICLR 2021, arXiv 2010.05874, Alg. 1, Eq. 3 and 5; :func:`pcl_kernels.gradvac`).

    The averages begin at 0, where the method is PCGrad, and are kept by the names of the two tasks. The
    weights are at least 1; ``scale="unit"`` divides them by their sum. A task whose gradient is zero neither changes
    the others nor is changed; its weight is 1, as is that of a single task.

    Args:
        beta: share of the new cosine in the average; 0.01 in the paper.
        scale: ``"paper"`` or ``"unit"``.
        seed: of the random orders, which are the weighting's own; the same seed gives the same orders.

    Raises:
        ValueError: for a beta outside [0, 1] or an unknown ``scale``.
    """

    needs: Needs = "gram"
    capturable = False

    def __init__(self, beta: float = 0.01, *, scale: Scale = "paper", seed: int = 0) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"GradVac beta: expected a number from 0 to 1, got {beta}")
        self.beta = beta
        self.scale = checked_scale(scale, "GradVac")
        self._targets = PairState()
        self._draws = generator(seed, "weighting", "gradvac")

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        targets = self._targets.pairs(tasks, gram.device)
        orders = random_orders(len(tasks), drawn_seed(self._draws))
        weights, moved = gradvac(gram, to_device(orders, gram.device), targets, self.beta)
        targets.copy_(moved)
        return scaled(weights, self.scale)

    def forget(self, task: str) -> None:
        """Drop the averages of every pair with a task that has ended."""
        self._targets.forget(task)

    def state_dict(self) -> dict[str, Any]:
        """The averages by pair of tasks, and where the generator stands."""
        return {"targets": self._targets.state_dict(), "draws": self._draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the averages, and go on with the draws of the state."""
        self._targets.load_state_dict(state["targets"])
        self._draws.set_state(state["draws"])
