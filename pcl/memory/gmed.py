"""Gradient based memory editing (Jin et al., *Gradient Based Memory Editing for Task-Free Continual Learning*)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from pcl.gradients.sample_distance import Losses
from pcl.memory.course import moved
from pcl.memory.edit import Stateless, Steps
from pcl.memory.stored_losses import StoredLosses
from pcl.models.modes import at_rest, evaluation_mode

_ALL = slice(None)


class GMEDEdit(Stateless):
    """x <- clamp(x + alpha * grad_x [l(x; theta') - l(x; theta) - beta l(x; theta)])  (Eq. 3-6).

    Stored samples move to where one more step would make the model forget them: theta' = theta - lr * u is where the
    model would stand after it. Two backward passes, for any model. Labels never change.

    - ``lookahead="direction"``, GMED: u is the direction given with the call. In :class:`pcl.BeforeUpdate` that is the
      gradient of the incoming batches, as in GMED's Algorithm 1; else the step's d, as in the account that arXiv
      2401.01054 (Sec. V) gives of it, and theta is where the step has led to.
    - ``lookahead="memory"``, for the ablation *Hindsight Edit*: u is the gradient of the mean loss of the very samples
      that are edited. With another mini-batch of the memory: ``BeforeUpdate(edit, direction="memory")``.

    Args:
        alpha: step size, in units of pixels.
        beta: how much less a sample may come to be fitted now.
        lr: learning rate of the step ahead, which is plain gradient descent.
        lookahead: ``"direction"`` or ``"memory"``.
        mean_loss: differentiate the mean loss of the batch, so that a sample's step is alpha / B, as the published code
            does; else its own loss, as in Eq. 6.
        variant: ``"paper"`` subtracts beta l, as Eq. 6; ``"code"`` adds it, as the published code.
        valid, steps, mean, std: as for :class:`pcl.GradientEdit`.

    Raises:
        ValueError: for alpha or lr <= 0, beta < 0, an unknown name, steps < 1, an empty range or std <= 0.
    """

    def __init__(
        self,
        alpha: float,
        *,
        beta: float = 0.01,
        lr: float = 0.05,
        lookahead: Literal["direction", "memory"] = "direction",
        mean_loss: bool = False,
        variant: Literal["paper", "code"] = "paper",
        valid: tuple[float, float] | None = (0.0, 1.0),
        steps: int = 1,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        if not lr > 0 or not beta >= 0:
            raise ValueError(f"edit: expected lr > 0 and beta >= 0, got lr={lr} and beta={beta}")
        if lookahead not in ("direction", "memory"):
            raise ValueError(f"edit: expected lookahead 'direction' or 'memory', got {lookahead!r}")
        if variant not in ("paper", "code"):
            raise ValueError(f"edit: expected variant 'paper' or 'code', got {variant!r}")
        self._steps = Steps(alpha, steps, valid, mean, std)
        self._beta = beta if variant == "paper" else -beta
        self._lr = lr
        self._lookahead = lookahead
        self._mean_loss = mean_loss

    def __call__(
        self,
        model: nn.Module,
        losses: Losses,
        x: Tensor,
        shared: Sequence[nn.Parameter],
        direction: Sequence[Tensor | None],
    ) -> Tensor:
        """The edited samples ``(B, ...)``; see :class:`pcl.memory.edit.Edit`."""
        if len(x) == 0:
            return x
        with evaluation_mode(model):
            ahead = direction
            if self._lookahead == "memory":
                ahead = torch.autograd.grad(losses(x.detach(), _ALL).mean(), list(shared), allow_unused=True)
            return self._steps.descend(x, lambda x: self._gradient(model, losses, x, shared, ahead))

    def _gradient(
        self,
        model: nn.Module,
        losses: Losses,
        x: Tensor,
        shared: Sequence[nn.Parameter],
        ahead: Sequence[Tensor | None],
    ) -> Tensor:
        """Of what is to become small: (1 + beta) l(x; theta) - l(x; theta')."""
        now = self._slope(model, losses, x)
        with _there(losses, shared, ahead, self._lr) as losses_there:
            later = self._slope(model, losses_there, x)
        return (1 + self._beta) * now - later

    def _slope(self, model: nn.Module, losses: Losses, x: Tensor) -> Tensor:
        slopes = losses.slopes(x) if isinstance(losses, StoredLosses) else None
        if slopes is not None:
            return slopes / len(x) if self._mean_loss else slopes
        with at_rest(model):
            x = x.detach().requires_grad_()
            found = losses(x, _ALL)
            return torch.autograd.grad(found.mean() if self._mean_loss else found.sum(), x)[0]


@contextmanager
def _there(
    losses: Losses, parameters: Sequence[nn.Parameter], along: Sequence[Tensor | None], lr: float
) -> Iterator[Losses]:
    """The losses at theta - lr * u."""
    if isinstance(losses, StoredLosses):
        with losses.ahead(parameters, along, lr) as there:
            yield there
    else:
        with moved(parameters, along, lr):
            yield losses
