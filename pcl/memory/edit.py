"""What an edit of memory samples is, and the limits that all edits keep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pcl.devices import to_device
from pcl.finite import finite_on_cpu
from pcl.gradients.sample_distance import Losses


class Edit(Protocol):
    """Changes stored samples: those that a step has drawn, after its update, unless :class:`pcl.BeforeUpdate` says
    otherwise. It never sees a label to change."""

    def __call__(
        self,
        model: nn.Module,
        losses: Losses,
        x: Tensor,
        shared: Sequence[nn.Parameter],
        direction: Sequence[Tensor | None],
    ) -> Tensor:
        """The edited samples ``(B, ...)``; where a gradient is not finite, the value stays.

        Args:
            model: the module that ``losses`` runs and that owns ``shared``.
            losses: ``losses(x[rows], rows)`` are the losses ``(B,)`` of the samples in those rows, their labels being
                the stored ones; rows are a slice or a tensor of indices.
            x: ``(B, ...)``, a floating dtype.
            shared: the parameters that gradients are taken with respect to.
            direction: d, the step's combined gradient, one tensor per parameter; None is zero.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """State as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        ...


class Stateless:
    """The last two methods of an edit that remembers nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""


@dataclass(frozen=True)
class Steps:
    """Gradient steps on samples, in units of raw pixels and inside their range, also where x is normalised.

    With pixels p = std x + mean, grad_p = grad_x / std, so that p <- clamp(p - alpha grad_p) reads
    x <- clamp(x - alpha grad_x / std^2), between the normalised ends of the range.

    Attributes:
        alpha: step size; p moves by alpha times its gradient.
        count: steps for each time that samples are drawn; every one takes the gradient anew.
        valid: the range of a pixel, or None.
        mean, std: what samples were normalised with outside the model: numbers, or one for each channel of x
            ``(B, C, ...)``. Where the model normalises, as :class:`pcl.Normalize` does, they stay 0 and 1.

    Raises:
        ValueError: for alpha <= 0, count < 1, an empty range or std <= 0.
    """

    alpha: float
    count: int = 1
    valid: tuple[float, float] | None = (0.0, 1.0)
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise ValueError(f"edit: expected alpha > 0, got {self.alpha}")
        if self.count < 1:
            raise ValueError(f"edit: expected steps >= 1, got {self.count}")
        if self.valid is not None and not self.valid[0] < self.valid[1]:
            raise ValueError(f"edit: expected valid=(low, high) with low < high, got {self.valid}")
        if not bool((torch.as_tensor(self.std) > 0).all()):
            raise ValueError(f"edit: expected std > 0, got {self.std}")

    def descend(self, x: Tensor, gradient: Callable[[Tensor], Tensor]) -> Tensor:
        """``count`` steps from x ``(B, ...)`` against ``gradient(x)`` ``(B, ...)``."""
        mean, std = _broadcast(self.mean, x), self.spread(x)
        for _ in range(self.count):
            step = self.alpha * gradient(x)
            if isinstance(std, Tensor) or std != 1:
                step = step / (std * std)
            x = x - step if step.is_cpu and finite_on_cpu([step]) else torch.where(torch.isfinite(step), x - step, x)
            if self.valid is not None:
                low, high = ((end - mean) / std for end in self.valid)
                x = x.clamp(low, high)  # type: ignore[arg-type]  # both are numbers, or both tensors
        return x

    def spread(self, x: Tensor) -> float | Tensor:
        """std, to multiply with x."""
        return _broadcast(self.std, x)


def _broadcast(value: float | Sequence[float], x: Tensor) -> float | Tensor:
    if isinstance(value, Sequence):
        return to_device(torch.tensor(value, dtype=x.dtype), x.device).view(-1, *[1] * (x.dim() - 2))
    return value
