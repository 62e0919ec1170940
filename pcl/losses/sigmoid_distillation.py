"""Distillation through sigmoids, that of iCaRL."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl.losses.base import Samples, Unobserving, check_strength
from pcl.losses.teacher import Teacher, refuse_carried_state
from pcl.models.continual import ContinualModel
from pcl.models.heads import SigmoidHead


class SigmoidDistillation(Unobserving):
    """Columns of finished classes learn what the model said when a task ended last (Rebuffi et al., "iCaRL: Incremental
    Classifier and Representation Learning", CVPR 2017, Algorithm 3), for every sample, stored or new:

        strength * sum_c b(z_c, q_c),    b(z, q) = -q log sigmoid(z) - (1 - q) log(1 - sigmoid(z)),

    over the columns c of classes of finished tasks that no task in training has, with q_c = sigmoid(z*_c) of the logits
    z* that the model gave then. In the class setting these are columns of the one classifier, in the task setting those
    of the heads of finished tasks.

    With a :class:`pcl.models.heads.SigmoidHead`, as published, q_c stands in place of the label: where c competes for
    the sample anyway, strength * b(z_c, [c is the sample's class]) is taken off, so that with strength 1 finished
    columns see the old model alone, and others labels alone. With other heads all of it stands beside their loss.

    It takes a copy of the model, which is made anew whenever a task ends, and a forward pass through it.

    Args:
        strength: 1 as published; with sigmoid heads the share of the old model in what finished columns learn.

    Raises:
        ValueError: for a strength <= 0.
    """

    capturable = True

    def __init__(self, strength: float = 1.0) -> None:
        check_strength("SigmoidDistillation", strength)
        self.strength = strength
        self._teacher = Teacher()
        self._columns: dict[tuple[str, ...], dict[str, Tensor]] = {}  # by tasks so far, then by task: see _distilled

    def check_model(self, model: ContinualModel) -> None:
        """Refuse one that carries its state from batch to batch; see :class:`pcl.losses.base.ChecksModel`."""
        refuse_carried_state(model, "SigmoidDistillation")

    def losses(self, samples: Samples) -> Tensor | None:
        """See above, ``(B,)``; None before a task has ended."""
        teacher = self._teacher.model
        columns = self._distilled(samples.model)
        if teacher is None or not columns:
            return None
        with torch.no_grad():
            features = teacher.backbone(samples.x)
            said = {task: teacher.logits(features, task)[:, which].sigmoid() for task, which in columns.items()}
        total = sum(
            self._added(samples, task, samples.model.logits(samples.features, task)[:, which], said[task], which)
            for task, which in columns.items()
        )
        assert isinstance(total, Tensor)
        return self.strength * total

    def _added(self, samples: Samples, task: str, z: Tensor, q: Tensor, which: Tensor) -> Tensor:
        """Sum ``(B,)`` over the columns ``which`` of a task; z and q ``(B, C)`` are those of model and teacher."""
        full = torch.promote_types(z.dtype, torch.float32)  # under autocast, bfloat16 would have 8 bits
        z, q = z.to(full), q.to(full)
        added = F.softplus(z) - q * z
        if isinstance(samples.model.head, SigmoidHead):
            hit = samples.model.hit(samples.y, task)[:, which]
            added = torch.where(self._competes(samples, task), (hit.to(full) - q) * z, added)
        return added.sum(dim=1)

    def _competes(self, samples: Samples, task: str) -> Tensor:
        """Whether the columns of ``task`` are in the samples' own loss, ``(B, 1)``."""
        if samples.model.setting == "class":
            return torch.ones_like(samples.y, dtype=torch.bool)[:, None]
        if samples.recalled is None or task not in samples.recalled.names:
            return torch.zeros_like(samples.y, dtype=torch.bool)[:, None]
        return (samples.recalled.task == samples.recalled.names.index(task))[:, None]

    def _distilled(self, model: ContinualModel) -> dict[str, Tensor]:
        """By task whose logits are compared: which of their columns; the class setting has one such task.

        Made once for the tasks that have begun, as making it would wait for a GPU.
        """
        finished = self._teacher.finished
        if model.tasks not in self._columns:
            running = {c for task in model.tasks if task not in finished for c in model.task_classes[task]}
            if model.setting == "task":
                running = set()  # heads are not shared
            wanted = {c for task in finished for c in model.task_classes[task]} - running
            device = next(model.parameters()).device
            numbers = {
                task: [i for i, c in enumerate(model.columns(task)) if c in wanted]
                for task in (finished if model.setting == "task" else finished[:1])
            }
            self._columns[model.tasks] = {
                t: torch.tensor(which, device=device) for t, which in numbers.items() if which
            }
        return self._columns[model.tasks]

    def task_ended(self, model: ContinualModel, task: str) -> None:
        """Remember the model as it is."""
        self._teacher.task_ended(model, task)
        self._columns.clear()

    def settings(self) -> dict[str, Any]:
        """Those given."""
        return {"strength": self.strength}

    def state_dict(self) -> dict[str, Any]:
        """The finished tasks, and the copy of the model."""
        return self._teacher.state_dict()

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        self._teacher.load_state_dict(state, model)
        self._columns.clear()
