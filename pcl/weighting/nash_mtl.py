"""Nash-MTL: task weights as the outcome of a bargain."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pcl.weighting.base import Needs
from pcl.weighting.task_state import TaskState
from pcl_kernels import nash_mtl


class NashMTL:
    """The direction of the Nash bargaining solution: all tasks gain the same proportion (Navon et al., "Multi-Task
    Learning as a Bargaining Game", ICML 2022, arXiv 2202.01017, Claim 3.1).

    The weights a > 0 solve G a = 1 / a, so that a_i <g_i, d> = 1 for every task, whatever the scale of its loss. The
    direction has length sqrt(k) however long the gradients are; ``scale="unit"`` divides the weights by their sum.
    At a Pareto stationary point there is no solution: the weights stay as they were, and are 1 / k at the beginning.

    Args:
        update_every: solve every so many steps, and whenever the set of tasks changes; in between the weights stay.
        scale: ``"paper"`` or ``"unit"``.

    Raises:
        ValueError: for ``update_every`` below 1, or an unknown ``scale``.
    """

    needs: Needs = "gram"
    capturable = False

    def __init__(self, *, update_every: int = 1, scale: Literal["paper", "unit"] = "paper") -> None:
        if update_every < 1:
            raise ValueError(f"Nash-MTL update_every: expected at least 1 step, got {update_every}")
        if scale not in ("paper", "unit"):
            raise ValueError(f"Nash-MTL scale: expected 'paper' or 'unit', got {scale!r}")
        self.update_every = update_every
        self.scale = scale
        self._last = TaskState(1, start=torch.nan)  # weights; NaN for a task that has none yet
        self._solved_for: tuple[str, ...] = ()
        self._age = 0  # steps since they were solved for

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        last = self._last.rows(tasks, gram.device)[:, 0]
        if self._age % self.update_every == 0 or tuple(tasks) != self._solved_for:
            solved = nash_mtl(gram)
            if self.scale == "unit":
                solved = solved / solved.sum()
            kept = torch.where(last.isnan(), 1 / len(tasks), last)
            last.copy_(torch.where(solved.isnan(), kept, solved))
            self._solved_for, self._age = tuple(tasks), 0
        self._age += 1
        return last.clone()

    def forget(self, task: str) -> None:
        """Drop the weight of a task that has ended."""
        self._last.forget(task)

    def state_dict(self) -> dict[str, Any]:
        """The weights by task, for which tasks they were solved, and when."""
        return {"weights": self._last.state_dict(), "tasks": list(self._solved_for), "age": self._age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the weights."""
        self._last.load_state_dict(state["weights"])
        self._solved_for, self._age = tuple(state["tasks"]), state["age"]
