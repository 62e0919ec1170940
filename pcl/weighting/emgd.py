"""Elastic Multi-Gradient Descent (Lyu et al., arXiv 2401.01054)."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pcl.weighting.base import Needs
from pcl.weighting.scale import Scale, checked_scale, scaled
from pcl.weighting.task_state import TaskState
from pcl_kernels import elastic_factors, simplex_qp


class EMGD:
    """argmin |sum_i w_i g_i|^2 subject to sum_i w_i sigma_i = 1, w >= lower (Eq. 8, where the bound is 0).

    The direction d = sum_i w_i g_i has <g_i, d> >= sigma_i |d|^2 for every task (Lemma 1): no task's loss rises
    along it, to first order, and those with a large elastic factor sigma_i descend fastest. The factors
    (:func:`pcl_kernels.elastic_factors`) are

    - ``"gmc"``, gradient magnitude change (Eq. 9): softmax over the tasks of m_i / temperature, where m_i is
      the moving average 0.9 m_i + 0.1 |g_i| of the gradient's norm. A new task starts at its first norm.
    - ``"gs"``, gradient similarity (Eq. 10): softmax of sum_j cos(g_i, g_j) / temperature. The cosine with a
      zero gradient counts as 0.

    A softmax of large norms saturates. So sigma <- (1 - k * floor) * sigma + floor, which keeps every factor at
    least ``floor`` and their sum 1.

    Because the factors sum to 1, the weights may sum to about k, while those of MGDA and the mean sum to 1: at
    one learning rate EMGD takes longer steps. ``scale="unit"`` divides the weights by their sum. A task whose gradient
    is zero makes the direction zero, as with :class:`pcl.MGDA`, where the bound is 0. For k = 1 the weight is 1.

    ``variant="code"`` is what the authors' published code does instead: temperature 5, and w_i >= 1 / (k + 1), so that
    every task always takes part. With w = lower + rho v, rho = 1 - lower, it is Eq. 8 in v for the gradients
    rho g_i + lower sigma_i sum_j g_j, and is solved as exactly. Lemma 1 is then lost: a task held up at its bound pulls
    more than the others can bear, and they may ascend. That code also takes the gradients of all parameters,
    the heads included; here this is the Trainer's ``gradients_over="all"``.

    Args:
        factors: ``"gmc"`` or ``"gs"``.
        variant: ``"paper"`` or ``"code"``; it gives the next two their defaults.
        temperature: of the softmax; 1 in the paper's equations, 5 in the code.
        lower: least weight of every task before scaling, from 0 to below 1; 0 in the paper, 1 / (k + 1) in the code.
        scale: ``"paper"`` or ``"unit"``.
        momentum: the two coefficients of the moving average, at least 0; 0.9 and 0.1 in the paper.
        floor: lower bound of every factor, at most 1 / k for the largest k that occurs.

    Raises:
        ValueError: for an unknown ``factors``, ``variant`` or ``scale``, temperature <= 0, a momentum that is negative
            or not finite, or a floor or a bound outside [0, 1).
    """

    needs: Needs = "gram"
    capturable = True

    def __init__(
        self,
        factors: Literal["gmc", "gs"] = "gmc",
        *,
        variant: Literal["paper", "code"] = "paper",
        temperature: float | None = None,
        lower: float | None = None,
        scale: Scale = "paper",
        momentum: tuple[float, float] = (0.9, 0.1),
        floor: float = 1e-4,
    ) -> None:
        if factors not in ("gmc", "gs"):
            raise ValueError(f"EMGD factors: expected 'gmc' or 'gs', got {factors!r}")
        if variant not in ("paper", "code"):
            raise ValueError(f"EMGD variant: expected 'paper' or 'code', got {variant!r}")
        if temperature is None:
            temperature = 1.0 if variant == "paper" else 5.0
        if not temperature > 0:
            raise ValueError(f"EMGD temperature: expected a number above 0, got {temperature}")
        if lower is None and variant == "paper":
            lower = 0.0
        if lower is not None and not 0 <= lower < 1:
            raise ValueError(f"EMGD lower: expected a number in [0, 1), got {lower}")
        if not all(0 <= share < math.inf for share in momentum):
            raise ValueError(f"EMGD momentum: expected two finite numbers of at least 0, got {momentum}")
        if not 0 <= floor < 1:
            raise ValueError(f"EMGD floor: expected a number in [0, 1), got {floor}")
        self.factors = factors
        self.temperature = temperature
        self.lower = lower  # None: 1 / (k + 1)
        self.scale = checked_scale(scale, "EMGD")
        self.momentum = momentum
        self.floor = floor
        self._norms = TaskState(1, start=torch.nan)  # moving averages; NaN for a task that is new

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        sigma = self.elastic_factors(gram, tasks)
        lower = 1 / (len(tasks) + 1) if self.lower is None else self.lower
        weights = _above(lower, gram, sigma) if lower else simplex_qp(gram, sigma)
        return scaled(weights, self.scale)

    def elastic_factors(self, gram: Tensor, tasks: Sequence[str]) -> Tensor:
        """sigma ``(k,)`` float64; with ``"gmc"`` the moving averages go one step on."""
        averages = self._norms.numbers(tasks, gram.device) if self.factors == "gmc" else None
        return elastic_factors(gram, averages, temperature=self.temperature, floor=self.floor, momentum=self.momentum)

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


def _above(lower: float, gram: Tensor, sigma: Tensor) -> Tensor:
    """The minimiser with every weight at least ``lower``; ``simplex_qp(lower=)`` has it for any sigma, in more steps.

    Because the factors sum to 1, weights = (1 - lower) v + lower with sigmaᵀv = 1, v >= 0, which is M v with
    M = (1 - lower) I + lower 1 sigmaᵀ: v solves the problem of MᵀGM.
    """
    half = torch.addr(gram, gram.sum(dim=1), sigma, beta=1 - lower, alpha=lower)  # GM
    whole = torch.addr(half, sigma, half.sum(dim=0), beta=1 - lower, alpha=lower)
    return (1 - lower) * simplex_qp(whole, sigma) + lower
