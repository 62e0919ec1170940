"""Gradient-guided memory editing (Lyu et al., arXiv 2401.01054, Sec. V)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pcl.gradients.sample_distance import DistanceGradient, Losses, Problem, Way, inner
from pcl.memory.edit import Stateless, Steps
from pcl.models.modes import evaluation_mode

Objective = Literal["distance", "alignment", "batch"]


class GradientEdit(Stateless):
    """x <- clamp(x - alpha * grad_x |g(x) - d|^2)  (Eq. 12, 13).

    g(x) is the gradient of the loss of the one sample x with respect to the shared parameters and d the
    direction that the weighting chose; both carry the sign of a gradient. Stored samples so move to where their
    own pull agrees with the direction in which all tasks improve. Labels never change.

    The gradient is exact and taken for the whole batch by the R-operator, at the price of about two training steps
    (:mod:`pcl.gradients.sweep.recording`); models that this does not cover are edited in slower ways, equally exact,
    and that is said once (:mod:`pcl.gradients.sample_distance`).

    Other objectives:

    - ``"alignment"`` leaves the term |g|^2 out: x <- clamp(x + 2 alpha * grad_x <g(x), d>). It is not in the paper;
      ``studies/edit_objective.py`` shows what each term does.
    - ``"batch"`` reads g in Eq. 12 as the gradient of the drawn batch's mean loss, all samples moving together: x <-
      clamp(x - alpha * grad_x |mean_b g(x_b) - d|^2). One double backward, for any model.

    The model runs in evaluation mode while it is edited against: batch statistics would tie the samples
    together, and a gradient of one sample would not be defined.

    Args:
        alpha: step size in units of raw pixels, which are in [0, 1] for image data; see
            :class:`pcl.memory.edit.Steps`.
        valid: range to which edited values are clamped, or None.
        objective: ``"distance"``, as in the paper, ``"alignment"`` or ``"batch"``.
        steps: gradient steps for each time that samples are drawn.
        mean, std: what samples were normalised with outside the model; alpha and ``valid`` are in units of pixels, see
            :class:`pcl.memory.edit.Steps`.
        method: how the gradient of ``"distance"`` is computed: ``"auto"``, ``"sweep"``, ``"ghost"``, ``"vmap"`` or
            ``"loop"``.

    Raises:
        ValueError: for alpha <= 0, steps < 1, an empty range, std <= 0, or an unknown objective or method.
    """

    def __init__(
        self,
        alpha: float,
        *,
        valid: tuple[float, float] | None = (0.0, 1.0),
        objective: Objective = "distance",
        steps: int = 1,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        method: Way | Literal["auto"] = "auto",
    ) -> None:
        if objective not in ("distance", "alignment", "batch"):
            raise ValueError(f"edit: expected objective 'distance', 'alignment' or 'batch', got {objective!r}")
        self.alpha = alpha
        self.valid = valid
        self.objective = objective
        self._steps = Steps(alpha, steps, valid, mean, std)
        self._distance = DistanceGradient(method)

    def __call__(
        self,
        model: nn.Module,
        losses: Losses,
        x: Tensor,
        shared: Sequence[nn.Parameter],
        direction: Sequence[Tensor | None],
    ) -> Tensor:
        """The edited samples ``(B, ...)``; see :class:`pcl.memory.edit.Edit`.

        Raises:
            ValueError: if the one ``method`` asked for is not right for this model.
        """
        return self._steps.descend(x, lambda x: self.gradient(model, losses, x, shared, direction))

    def gradient(
        self,
        model: nn.Module,
        losses: Losses,
        x: Tensor,
        shared: Sequence[nn.Parameter],
        direction: Sequence[Tensor | None],
    ) -> Tensor:
        """The gradient of the objective at every sample, ``(B, ...)`` like x; arguments as for a call."""
        problem = Problem(model, losses, x, shared, direction)
        with evaluation_mode(model), sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
            if self.objective == "distance":
                return self._distance(problem)
            return _alignment_gradient(problem) if self.objective == "alignment" else _batch_gradient(problem)


def _alignment_gradient(problem: Problem) -> Tensor:
    x = problem.start()
    losses = problem.losses(x, problem.rows)
    gradients = torch.autograd.grad(losses.sum(), list(problem.shared), create_graph=True, allow_unused=True)
    return torch.autograd.grad(-2 * inner(gradients, problem.direction, x), x)[0]


def _batch_gradient(problem: Problem) -> Tensor:
    x = problem.start()
    losses = problem.losses(x, problem.rows)
    gradients = torch.autograd.grad(losses.mean(), list(problem.shared), create_graph=True, allow_unused=True)
    pairs = zip(gradients, problem.direction, strict=True)
    terms = [(g if d is None else g - d).square().sum() for g, d in pairs if g is not None]
    return torch.autograd.grad(sum(terms, start=0 * x.sum()), x)[0]
