"""Memory editing in random directions: the ablation *Random Edit* of GMED."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcl.gradients.sample_distance import Losses
from pcl.memory.edit import Steps
from pcl.randomness import generator


class RandomEdit:
    """x <- clamp(x + alpha u / |u|) with u of independent normal numbers: a fixed stride in a random direction.

    What an edit by a gradient has to beat (Jin et al., Table 3). The paper does not say how directions are drawn; every
    direction is equally likely here, and alpha is the length of a sample's step, in units of pixels.

    Args:
        alpha: length of a sample's step.
        seed: of the directions, which are drawn on the CPU and so the same on every device.
        valid, steps, mean, std: as for :class:`pcl.GradientEdit`.

    Raises:
        ValueError: for alpha <= 0, steps < 1, an empty range or std <= 0.
    """

    def __init__(
        self,
        alpha: float,
        *,
        seed: int = 0,
        valid: tuple[float, float] | None = (0.0, 1.0),
        steps: int = 1,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        self._steps = Steps(alpha, steps, valid, mean, std)
        self._draws = generator(seed, "memory", "random edit")

    def __call__(
        self,
        model: nn.Module,
        losses: Losses,
        x: Tensor,
        shared: Sequence[nn.Parameter],
        direction: Sequence[Tensor | None],
    ) -> Tensor:
        """The edited samples ``(B, ...)``; see :class:`pcl.memory.edit.Edit`."""
        return self._steps.descend(x, lambda x: -self._direction(x) * self._steps.spread(x))

    def _direction(self, x: Tensor) -> Tensor:
        u = torch.randn(x.shape, generator=self._draws, dtype=torch.float64).flatten(1)
        unit: Tensor = u / u.norm(dim=1, keepdim=True)
        return unit.view(x.shape).to(x)

    def state_dict(self) -> dict[str, Any]:
        """Where the drawing of directions stands."""
        return {"draws": self._draws.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on drawing from there."""
        self._draws.set_state(state["draws"])
