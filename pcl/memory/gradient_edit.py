"""Gradient-guided memory editing (Lyu et al., arXiv 2401.01054, Sec. V)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcl.gradients.sample_norms import SampleNorms
from pcl.models.modes import evaluation_mode
from pcl.notices import say_once

Losses = Callable[[Tensor, slice], Tensor]
"""From samples ``(B, ...)``, and the rows of the edited batch that they are, to their losses ``(B,)``."""

_ALL = slice(None)


class GradientEdit:
    """x <- clamp(x - alpha * grad_x |g(x) - d|^2)  (Eq. 12, 13).

    g(x) is the gradient of the loss of the one sample x with respect to the shared parameters and d the
    direction that the weighting chose; both carry the sign of a gradient. Stored samples so move to where their
    own pull agrees with the direction in which all tasks improve. Labels never change.

    With |g - d|^2 = |g|^2 - 2 <g, d> + |d|^2, the last term is constant, <g(x), d> summed over the batch is one
    directional derivative, and |g(x)|^2 of every sample follows from quantities that one backward pass of the
    whole batch leaves at every layer (:class:`pcl.gradients.sample_norms.SampleNorms`). One double backward
    gives the edit of the batch, exactly. Models with layers that this does not cover are edited sample by
    sample, equally exact and far slower; that is said once.

    ``objective="alignment"`` leaves the term |g|^2 out: x <- clamp(x + 2 alpha * grad_x <g(x), d>). It is not in the
    paper; ``studies/edit_objective.py`` shows what each term does.

    The model runs in evaluation mode while it is edited against: batch statistics would tie the samples
    together, and a gradient of one sample would not be defined.

    Args:
        alpha: step size; x moves by alpha times the gradient. x is in [0, 1] for image data.
        valid: range to which edited values are clamped, or None.
        objective: ``"distance"``, as in the paper, or ``"alignment"``.

    Raises:
        ValueError: for alpha <= 0, an empty range or an unknown objective.
    """

    def __init__(
        self,
        alpha: float,
        *,
        valid: tuple[float, float] | None = (0.0, 1.0),
        objective: Literal["distance", "alignment"] = "distance",
    ) -> None:
        if not alpha > 0:
            raise ValueError(f"edit: expected alpha > 0, got {alpha}")
        if valid is not None and not valid[0] < valid[1]:
            raise ValueError(f"edit: expected valid=(low, high) with low < high, got {valid}")
        if objective not in ("distance", "alignment"):
            raise ValueError(f"edit: expected objective 'distance' or 'alignment', got {objective!r}")
        self.alpha = alpha
        self.valid = valid
        self.objective = objective

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
            losses: ``losses(x[rows], rows)`` are the losses ``(B,)`` of the samples in those rows.
            x: ``(B, ...)``, a floating dtype.
            shared: the parameters that g and d are about.
            direction: d, one tensor per parameter; None is zero.
        """
        step = self.alpha * self.gradient(model, losses, x, shared, direction)
        edited = torch.where(torch.isfinite(step), x - step, x)
        return edited if self.valid is None else edited.clamp(*self.valid)

    def gradient(
        self,
        model: nn.Module,
        losses: Losses,
        x: Tensor,
        shared: Sequence[nn.Parameter],
        direction: Sequence[Tensor | None],
    ) -> Tensor:
        """The gradient of the objective at every sample, ``(B, ...)`` like x; arguments as for a call."""
        with evaluation_mode(model):
            if self.objective == "alignment":
                return _alignment_gradient(losses, x, shared, direction)
            uncovered = SampleNorms.uncovered(model, shared)
            if uncovered:
                say_once(f"edit: editing sample by sample, exact but slow, because of {uncovered}")
                rows = [_sample_gradient(losses, x, slice(i, i + 1), shared, direction) for i in range(len(x))]
                return torch.cat(rows) if rows else torch.zeros_like(x)
            return _batch_gradient(model, losses, x, shared, direction)


def _batch_gradient(
    model: nn.Module,
    losses: Losses,
    x: Tensor,
    shared: Sequence[nn.Parameter],
    direction: Sequence[Tensor | None],
) -> Tensor:
    x = x.detach().requires_grad_()
    with SampleNorms(model, shared) as norms:
        total = losses(x, _ALL).sum()
    squared, gradients = norms.squared(total)
    distance = squared.sum() - 2 * _inner(gradients, direction, x)
    return torch.autograd.grad(distance, x)[0]


def _sample_gradient(
    losses: Losses, x: Tensor, row: slice, shared: Sequence[nn.Parameter], direction: Sequence[Tensor | None]
) -> Tensor:
    x = x[row].detach().requires_grad_()
    gradients = torch.autograd.grad(losses(x, row).sum(), list(shared), create_graph=True, allow_unused=True)
    squared = sum((g.square().sum() for g in gradients if g is not None), start=x.new_zeros(()))
    return torch.autograd.grad(squared - 2 * _inner(gradients, direction, x), x)[0]


def _alignment_gradient(
    losses: Losses, x: Tensor, shared: Sequence[nn.Parameter], direction: Sequence[Tensor | None]
) -> Tensor:
    x = x.detach().requires_grad_()
    gradients = torch.autograd.grad(losses(x, _ALL).sum(), list(shared), create_graph=True, allow_unused=True)
    return torch.autograd.grad(-2 * _inner(gradients, direction, x), x)[0]


def _inner(gradients: Sequence[Tensor | None], direction: Sequence[Tensor | None], x: Tensor) -> Tensor:
    products = [(g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None and d is not None]
    return sum(products, start=0 * x.sum())
