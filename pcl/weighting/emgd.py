"""Elastic Multi-Gradient Descent (Lyu et al., arXiv 2401.01054)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pcl.weighting.base import Needs
from pcl.weighting.task_state import TaskState
from pcl_kernels import simplex_qp


class EMGD:
    """argmin |sum_i w_i g_i|^2 subject to sum_i w_i sigma_i = 1, w >= 0 (Eq. 8).

    The direction d = sum_i w_i g_i has <g_i, d> >= sigma_i |d|^2 for every task (Lemma 1): no task's loss rises
    along it, to first order, and those with a large elastic factor sigma_i descend fastest. The factors are

    - ``"gmc"``, gradient magnitude change (Eq. 9): softmax over the tasks of m_i / temperature, where m_i is
      the moving average 0.9 m_i + 0.1 |g_i| of the gradient's norm. A new task starts at its first norm.
    - ``"gs"``, gradient similarity (Eq. 10): softmax of sum_j cos(g_i, g_j) / temperature. The cosine with a
      zero gradient counts as 0.

    A softmax of large norms saturates. So sigma <- (1 - k * floor) * sigma + floor, which keeps every factor at
    least ``floor`` and their sum 1.

    Because the factors sum to 1, the weights may sum to about k, while those of MGDA and the mean sum to 1: at
    one learning rate EMGD takes longer steps. ``scale="unit"`` divides the weights by their sum. A task whose gradient
    is zero makes the direction zero, as with :class:`pcl.MGDA`.

    Args:
        factors: ``"gmc"`` or ``"gs"``.
        temperature: of the softmax; the paper's equations have 1.
        scale: ``"paper"`` or ``"unit"``.
        momentum: the two coefficients of the moving average, 0.9 and 0.1 in the paper.
        floor: lower bound of every factor, at most 1 / k for the largest k that occurs.

    Raises:
        ValueError: for an unknown ``factors`` or ``scale``, temperature <= 0, or a floor outside [0, 1).
    """

    needs: Needs = "gram"
    capturable = True

    def __init__(
        self,
        factors: Literal["gmc", "gs"] = "gmc",
        *,
        temperature: float = 1.0,
        scale: Literal["paper", "unit"] = "paper",
        momentum: tuple[float, float] = (0.9, 0.1),
        floor: float = 1e-4,
    ) -> None:
        if factors not in ("gmc", "gs"):
            raise ValueError(f"EMGD factors: expected 'gmc' or 'gs', got {factors!r}")
        if scale not in ("paper", "unit"):
            raise ValueError(f"EMGD scale: expected 'paper' or 'unit', got {scale!r}")
        if not temperature > 0:
            raise ValueError(f"EMGD temperature: expected a number above 0, got {temperature}")
        if not 0 <= floor < 1:
            raise ValueError(f"EMGD floor: expected a number in [0, 1), got {floor}")
        self.factors = factors
        self.temperature = temperature
        self.scale = scale
        self.momentum = momentum
        self.floor = floor
        self._norms = TaskState(1, start=torch.nan)  # moving averages; NaN for a task that is new

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        weights = simplex_qp(gram, self.elastic_factors(gram, tasks))
        return weights / weights.sum() if self.scale == "unit" else weights

    def elastic_factors(self, gram: Tensor, tasks: Sequence[str]) -> Tensor:
        """sigma ``(k,)`` float64; with ``"gmc"`` the moving averages go one step on."""
        k = len(tasks)
        if self.floor * k > 1:
            raise ValueError(f"EMGD floor: {self.floor} is above 1 / k for k = {k} tasks; lower it")
        score = self._average_norms(gram, tasks) if self.factors == "gmc" else _similarities(gram)
        sigma = torch.softmax(score / self.temperature, dim=0)
        return (1 - k * self.floor) * sigma + self.floor

    def _average_norms(self, gram: Tensor, tasks: Sequence[str]) -> Tensor:
        keep, take = self.momentum
        norms = gram.diagonal().sqrt()
        averages = self._norms.rows(tasks, gram.device)[:, 0]
        averages.copy_(torch.where(averages.isnan(), norms, keep * averages + take * norms))
        return averages

    def forget(self, task: str) -> None:
        """Drop the moving average of a task that has ended."""
        self._norms.forget(task)

    def state_dict(self) -> dict[str, Any]:
        """The moving averages by task, and which factors they are for."""
        return {"factors": self.factors, "norms": self._norms.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the moving averages.

        Raises:
            ValueError: if they are for other factors.
        """
        if state["factors"] != self.factors:
            raise ValueError(
                f"EMGD: the state is for factors {state['factors']!r}, this weighting has {self.factors!r}"
            )
        self._norms.load_state_dict(state["norms"])


def _similarities(gram: Tensor) -> Tensor:
    scale = gram.diagonal().rsqrt()
    scale = torch.where(gram.diagonal() > 0, scale, 0.0)
    return (gram * scale[:, None] * scale[None, :]).sum(dim=1)
