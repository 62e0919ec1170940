"""Random loss weighting."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pcl.devices import to_device
from pcl.randomness import generator
from pcl.weighting.base import Needs


class RLW:
    """New random weights in every step, nonnegative and of sum 1 (Lin, Ye, Zhang and Tsang, "Reasonable Effectiveness
    of Random Weighting", TMLR 2022, arXiv 2111.10603).

    - ``"normal"``: weights = softmax(z), z_i ~ N(0, 1).
    - ``"dirichlet"``: weights ~ Dirichlet(1, ..., 1), uniform on the simplex: e_i / sum_j e_j, e_i ~ Exp(1).

    Args:
        distribution: ``"normal"`` or ``"dirichlet"``.
        seed: of the draws, which are the weighting's own; the same seed gives the same weights.

    Raises:
        ValueError: for another distribution.
    """

    needs: Needs = "losses"
    capturable = False

    def __init__(self, distribution: Literal["normal", "dirichlet"] = "normal", *, seed: int = 0) -> None:
        if distribution not in ("normal", "dirichlet"):
            raise ValueError(f"RLW distribution: expected 'normal' or 'dirichlet', got {distribution!r}")
        self.distribution = distribution
        self._draws = generator(seed, "weighting", "rlw")

    def __call__(self, gram: Tensor | None, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        weights = torch.empty(len(tasks), dtype=torch.float64)
        if self.distribution == "normal":
            weights = torch.softmax(weights.normal_(generator=self._draws), dim=0)
        else:
            weights.exponential_(generator=self._draws)
            weights /= weights.sum()
        return to_device(weights, losses.device)

    def forget(self, task: str) -> None:
        """Nothing is remembered of a task."""

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stands, and which distribution it draws from."""
        return {"distribution": self.distribution, "draws": self._draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the draws of the state.

        Raises:
            ValueError: if they are of the other distribution.
        """
        if state["distribution"] != self.distribution:
            raise ValueError(
                f"RLW: the state is for distribution {state['distribution']!r}, this weighting has "
                f"{self.distribution!r}"
            )
        self._draws.set_state(state["draws"])
