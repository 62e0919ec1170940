"""The losses of a step, pass by pass, as the task-gradient engine wants them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pcl.models.continual import ContinualModel
from pcl.streams.stream import MEMORY
from pcl.training.step_data import StepData

Precision = Literal["full", "bf16"]


@dataclass(frozen=True)
class Pass:
    """Part of a step that fits into memory at once.

    Attributes:
        model: from a task's input to features.
        inputs: by task.
        losses: by task, from the features to this part's share of the task's loss.
    """

    model: Callable[[Tensor], Tensor]
    inputs: dict[str, Tensor]
    losses: dict[str, Callable[[Tensor], Tensor]]


class StepLosses:
    """loss_i = mean over all samples of task i in this step; the passes' shares sum to it.

    Pass j takes the j-th batch of every task that has so many, and the j-th part of the recalled samples.

    Args:
        precision: ``"bf16"`` runs forward passes under autocast to bfloat16, and so their backward passes.
    """

    def __init__(self, model: ContinualModel, data: StepData, precision: Precision) -> None:
        self._model = model
        self._precision = precision
        recalled = data.recalled
        size = {task: sum(len(y) for _, y in batches) for task, batches in data.batches.items()}
        self.passes: list[Pass] = []
        for j in range(self._count(data)):
            now = Pass(self._backbone(), {}, {})
            for task, batches in data.batches.items():
                if j < len(batches):
                    x, y = batches[j]
                    now.inputs[task] = x
                    now.losses[task] = self._share_of(task, y, len(y) / size[task])
            if recalled is not None and j * data.memory_batch < len(recalled.y):
                rows = slice(j * data.memory_batch, (j + 1) * data.memory_batch)
                now.inputs[MEMORY] = recalled.x[rows]
                share = len(now.inputs[MEMORY]) / len(recalled.y)
                now.losses[MEMORY] = self._memory_share(recalled.y[rows], recalled.task[rows], recalled.names, share)
            self.passes.append(now)

    @torch.no_grad()
    def values(self) -> Tensor:
        """The losses ``(k,)`` with the parameters as they are now."""
        values: dict[str, Tensor] = {}
        for now in self.passes:
            for task, loss_of in now.losses.items():
                loss = loss_of(now.model(now.inputs[task]))
                values[task] = values[task] + loss if task in values else loss
        return torch.stack(list(values.values()))

    @staticmethod
    def _count(data: StepData) -> int:
        parts = [len(batches) for batches in data.batches.values()]
        if data.recalled is not None:
            parts.append(-(-len(data.recalled.y) // data.memory_batch))
        return max(parts)

    def _backbone(self) -> Callable[[Tensor], Tensor]:
        return self._model.backbone if self._precision == "full" else self._autocast(self._model.backbone)

    def _share_of(self, task: str, y: Tensor, share: float) -> Callable[[Tensor], Tensor]:
        return self._autocast(lambda features: _mean(self._model.feature_losses(features, y, task), share))

    def _memory_share(
        self, y: Tensor, task: Tensor, names: tuple[str, ...], share: float
    ) -> Callable[[Tensor], Tensor]:
        return self._autocast(lambda features: _mean(self._model.mixed_feature_losses(features, y, task, names), share))

    def _autocast(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        if self._precision == "full":
            return function

        def run(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=torch.bfloat16):
                return function(x)

        return run


def _mean(losses: Tensor, share: float) -> Tensor:
    mean = losses.mean()
    return mean if share == 1.0 else share * mean
