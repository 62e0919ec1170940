"""Memory aware synapses."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pcl.gradients.result import Gradient
from pcl.losses.base import check_strength
from pcl.losses.sensitivity import sensitivity
from pcl.losses.springs import Protect, Springs
from pcl.losses.task_samples import TaskSamples
from pcl.models.continual import ContinualModel


class MAS:
    """strength * sum_j Omega_j (theta_j - theta*_j)^2, Omega_j = sum_t 1/n sum_b |d |f_t(x_b)|^2 / d theta_j| (Aljundi
    et al., "Memory Aware Synapses", ECCV 2018, the variant that takes the squared length of the outputs).

    f_t are the logits of task t, in the class setting those of all classes seen; labels play no part. Omega_t is
    measured when task t ends, on a uniform draw from all the samples it has shown, and theta* are the parameters when a
    task ended last, whatever other tasks are in training then.

    Args:
        strength: lambda.
        samples: how many samples of every task.
        protect: ``"backbone"``, or ``"all"`` for the heads too.
        seed: of the draw of samples.

    Raises:
        ValueError: for strength <= 0, samples < 1 or an unknown word.
    """

    capturable = True

    def __init__(self, strength: float, *, samples: int = 200, protect: Protect = "backbone", seed: int = 0) -> None:
        check_strength("MAS", strength)
        self.strength = strength
        self.springs = Springs(protect)
        self._samples = TaskSamples(samples, seed, "MAS")

    def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
        """See :class:`pcl.losses.base.Penalty`."""
        return self.springs.gradient(parameters)

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The formula above, over the parameters given."""
        return self.springs.value(parameters)

    def observe(self, task: str, x: Tensor, y: Tensor) -> None:
        """Keep some of these samples."""
        self._samples.observe(task, x, y)

    def task_ended(self, model: ContinualModel, task: str) -> None:
        """Measure Omega_t, and hold on to the parameters as they are."""
        x, _ = self._samples.take(task)
        parameters = self.springs.parameters(model)
        found = sensitivity(model, task, x, _squared_length, parameters, power=1)
        self.springs.renew({name: 2 * self.strength * omega for name, omega in found.items()}, parameters)

    def settings(self) -> dict[str, Any]:
        """Those given."""
        return {"strength": self.strength, "samples": self._samples.count, "protect": self.springs.protect}

    def state_dict(self) -> dict[str, Any]:
        """Springs, and the samples of tasks in training."""
        return {"springs": self.springs.state_dict(), "samples": self._samples.state_dict()}

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        device = next(model.parameters()).device
        self.springs.load_state_dict(state["springs"], device)
        self._samples.load_state_dict(state["samples"], device)


def _squared_length(logits: Tensor, rows: slice) -> Tensor:
    return logits.square().sum(dim=1)
