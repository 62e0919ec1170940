"""FairGrad: task weights as a fair share-out of the gains."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcl.weighting.base import Needs
from pcl.weighting.preference import checked_preference, preference_vector
from pcl.weighting.scale import Scale, checked_scale, scaled
from pcl.weighting.task_state import TaskState
from pcl_kernels import nash_mtl


class FairGrad:
    """The direction d of the highest alpha-fair utility sum_i q_i <g_i, d>^(1 - alpha) / (1 - alpha) of the gains (Ban
    and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, arXiv 2402.15638, Sec. 4).

    The weights w > 0 of d = sum_i w_i g_i solve (G w)_i = (q_i / w_i)^(1 / alpha), with q_i = 1, or, where there is a
    preference p, k p_i. For alpha near 0 the sum of the gains counts and the weights are all about 1; alpha = 1 is
    :class:`pcl.NashMTL`, alpha = 2 asks for the least potential delay sum_i 1 / <g_i, d>, and a large alpha for the
    highest least gain. Other than that of Nash-MTL the direction changes its length with the gradients: weights are
    those of unit gradients times |g|^(-2 alpha / (1 + alpha)). ``scale="unit"`` divides them by their sum.

    At a Pareto stationary point, as where a gradient is zero, there is no solution: the weights stay as they were, and
    are 1 / k at the beginning.

    Args:
        alpha: above 0; the authors' scripts take 2.
        update_every: solve every so many steps, and whenever the set of tasks changes; in between the weights stay.
        scale: ``"paper"`` or ``"unit"``.
        preference: how much each task counts, by name; tasks not named count 1. None means all the same.

    Raises:
        ValueError: for an ``alpha`` or a preference that is not a finite number above 0, ``update_every`` below 1, or
            an unknown ``scale``.
    """

    needs: Needs = "gram"
    capturable = False

    def __init__(
        self,
        alpha: float = 2.0,
        *,
        update_every: int = 1,
        scale: Scale = "paper",
        preference: Mapping[str, float] | None = None,
    ) -> None:
        name = type(self).__name__
        if not 0 < alpha < math.inf:
            raise ValueError(f"{name} alpha: expected a finite number above 0, got {alpha}")
        if update_every < 1:
            raise ValueError(f"{name} update_every: expected at least 1 step, got {update_every}")
        self.alpha = alpha
        self.update_every = update_every
        self.scale = checked_scale(scale, name)
        self.preference = checked_preference(preference, name)
        self._last = TaskState(1, start=torch.nan)  # weights; NaN for a task that has none yet
        self._solved_for: tuple[str, ...] = ()
        self._age = 0  # steps since they were solved for

    def __call__(self, gram: Tensor, losses: Tensor, tasks: Sequence[str]) -> Tensor:
        last = self._last.rows(tasks, gram.device)[:, 0]
        if self._age % self.update_every == 0 or tuple(tasks) != self._solved_for:
            counts = None
            if self.preference is not None:
                counts = len(tasks) * preference_vector(self.preference, tasks, gram)
            solved = scaled(nash_mtl(gram, counts, alpha=self.alpha), self.scale)
            kept = torch.where(last.isnan(), 1 / len(tasks), last)
            last.copy_(torch.where(solved.isnan(), kept, solved))
            self._solved_for, self._age = tuple(tasks), 0
        self._age += 1
        return last.clone()

    def forget(self, task: str) -> None:
        """Drop the weight of a task that has ended."""
        self._last.forget(task)
        self._solved_for = ()  # a new task of that name has no weight yet

    def state_dict(self) -> dict[str, Any]:
        """The weights by task, for which tasks they were solved, and when."""
        return {"weights": self._last.state_dict(), "tasks": list(self._solved_for), "age": self._age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the weights."""
        self._last.load_state_dict(state["weights"])
        self._solved_for, self._age = tuple(state["tasks"]), state["age"]
