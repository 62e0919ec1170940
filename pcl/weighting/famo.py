"""FAMO: fast adaptive multitask optimization."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcl.weighting.base import Needs
from pcl.weighting.task_adam import TaskAdam

_EPS = 1e-8  # of Algorithm 4: keeps logarithms of solved tasks finite


class FAMO:
    """Lets all losses fall at a similar relative rate, without task gradients (Liu, Feng, Stone and Liu, NeurIPS 2023;
    Algorithms 3 and 4, Eq. 4.10 to 4.12, of Bo Liu's dissertation, 2025).

    With logits xi_i, beginning at 0, z = softmax(xi) and D_i = loss_i - lower + 1e-8,

        weight_i = c z_i / D_i,  c = 1 / sum_j (z_j / D_j),

    a convex combination. After the update of the model the losses of the same batches are computed once more, without
    a backward pass, and the logits take one step of Adam along

        delta_i = z_i (a_i - sum_j z_j a_j) + decay xi_i,  a = log D(before) - log D(after).

    Args:
        lr: step size of the logits.
        decay: gamma, pulls the logits back to 0.
        lower: a lower bound of every loss; 0 for cross-entropy.

    Raises:
        ValueError: for lr <= 0 or decay < 0.
    """

    needs: Needs = "losses"
    capturable = False

    def __init__(self, lr: float = 0.025, *, decay: float = 0.001, lower: float = 0.0) -> None:
        if not lr > 0:
            raise ValueError(f"FAMO lr: expected a number above 0, got {lr}")
        if decay < 0:
            raise ValueError(f"FAMO decay: expected a number of at least 0, got {decay}")
        self.lower = lower
        self._logits = TaskAdam(lr, decay=decay)
        self._before: Tensor | None = None  # log D of this step, until after_update

    def __call__(self, gram: Tensor | None, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        z = torch.softmax(self._logits.values(tasks, losses.device), dim=0)
        distance = self._distance(losses)
        self._before = distance.log()
        weights = z / distance
        return weights / weights.sum()

    def after_update(self, losses: Tensor, tasks: Sequence[str]) -> None:
        """One step of the logits; ``losses`` are those of the same batches after the update.

        Raises:
            RuntimeError: if the weights were not asked for in this step.
        """
        if self._before is None:
            raise RuntimeError("FAMO after_update: ask for the weights of the step first")
        z = torch.softmax(self._logits.values(tasks, losses.device), dim=0)
        fall = self._before - self._distance(losses).log()
        fall = torch.where(torch.isfinite(fall), fall, 0.0)  # a step that broke a loss teaches the logits nothing
        self._logits.step(tasks, z * (fall - (z * fall).sum()))
        self._before = None

    def _distance(self, losses: Tensor) -> Tensor:
        return losses.to(torch.float64) - self.lower + _EPS

    def forget(self, task: str) -> None:
        """Drop the logit of a task that has ended."""
        self._logits.forget(task)

    def state_dict(self) -> dict[str, Any]:
        """The logits and their Adam, by task."""
        return {"logits": self._logits.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the logits."""
        self._logits.load_state_dict(state["logits"])
