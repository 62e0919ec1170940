"""Learning without forgetting."""

from typing import Any

import torch
from torch import Tensor

from pcl.losses.base import Samples, Unobserving, check_strength
from pcl.losses.teacher import Teacher, refuse_carried_state
from pcl.models.continual import ContinualModel
from pcl.streams.stream import is_memory


class LwF(Unobserving):
    """strength * sum_t H(softmax(z*_t / T), softmax(z_t / T)) for every sample of a task in training, over the finished
    tasks t (Li and Hoiem, "Learning without Forgetting", ECCV 2016, Eq. 2 and 3).

    z_t are the logits of the sample for task t, z*_t those that the model gave when a task ended last, and H is the
    cross-entropy of the first distribution with respect to the second. So samples of new tasks keep what the model says
    of them in the words of the old. In the class setting there is one such term, over the columns of the classes of all
    finished tasks. Samples of the memory, which have labels of their own, are left alone.

    It takes a copy of the model, which is made anew whenever a task ends, and a forward pass through it.

    Args:
        strength: lambda_o.
        temperature: T.

    Raises:
        ValueError: for a strength or temperature <= 0.
    """

    capturable = True

    def __init__(self, strength: float = 1.0, *, temperature: float = 2.0) -> None:
        check_strength("LwF", strength)
        if not temperature > 0:
            raise ValueError(f"LwF: expected temperature > 0, got {temperature}")
        self.strength = strength
        self.temperature = temperature
        self._teacher = Teacher()
        self._columns: dict[str, Tensor] = {}  # by task whose logits are compared: which of their columns

    def check_model(self, model: ContinualModel) -> None:
        """Refuse one that carries its state from batch to batch; see :class:`pcl.losses.base.ChecksModel`."""
        refuse_carried_state(model, "LwF")

    def losses(self, samples: Samples) -> Tensor | None:
        """See above, ``(B,)``; None before a task has ended."""
        teacher = self._teacher.model
        if teacher is None or is_memory(samples.task):
            return None
        with torch.no_grad():
            features = teacher.backbone(samples.x)
            then = {task: teacher.logits(features, task) for task in self._columns}
        total: Tensor | None = None
        for task, columns in self._columns.items():
            now = samples.model.logits(samples.features, task)
            found = self._cross_entropy(then[task][:, columns], now[:, columns])
            total = found if total is None else total + found
        return None if total is None else self.strength * total

    def _cross_entropy(self, then: Tensor, now: Tensor) -> Tensor:
        full = torch.promote_types(now.dtype, torch.float32)  # under autocast, bfloat16 would have 8 bits
        target = (then.to(full) / self.temperature).softmax(dim=1)
        log_now = (now.to(full) / self.temperature).log_softmax(dim=1)
        return -(target * log_now).sum(dim=1)

    def task_ended(self, model: ContinualModel, task: str) -> None:
        """Remember the model as it is."""
        self._teacher.task_ended(model, task)
        self._find_columns()

    def _find_columns(self) -> None:
        teacher, finished = self._teacher.model, self._teacher.finished
        if teacher is None:
            return
        one_per_task = finished if teacher.setting == "task" else finished[:1]
        wanted = {c for task in finished for c in teacher.task_classes[task]}
        device = next(teacher.parameters()).device
        self._columns = {
            task: torch.tensor([i for i, c in enumerate(teacher.columns(task)) if c in wanted], device=device)
            for task in one_per_task
        }

    def settings(self) -> dict[str, Any]:
        """Those given."""
        return {"strength": self.strength, "temperature": self.temperature}

    def state_dict(self) -> dict[str, Any]:
        """The finished tasks, and the copy of the model."""
        return self._teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        self._teacher.load_state_dict(state, model)
        self._find_columns()
