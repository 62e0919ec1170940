"""Synaptic intelligence."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pcl.gradients.result import Gradient
from pcl.losses.base import Unobserving, check_strength
from pcl.losses.springs import Protect, Springs
from pcl.models.continual import ContinualModel


class SI(Unobserving):
    """strength * sum_j Omega_j (theta_j - theta*_j)^2, with an importance that training itself brings to light (Zenke,
    Poole and Ganguli, "Continual Learning Through Synaptic Intelligence", ICML 2017, Eq. 3 to 5).

    Along the way, every number's share in the fall of the loss is added up, omega_j = - sum_steps g_j dtheta_j, where
    dtheta is the update as the optimizer made it and g = sum_i lambda_i g_i the gradient of the data in this step, as
    the weighting has combined it: without penalties, and before clipping. When a task ends,

        Omega_j <- Omega_j + max(omega_j, 0) / ((theta_j - theta*_j)^2 + damping),  theta* <- theta,  omega <- 0.

    In one stream after the other this is the method as published. Where streams overlap, the path from one end to the
    next belongs to all the tasks that took part in it; each of its steps counts once. A negative omega, a number that
    has moved against the gradient, counts as none, for its spring would push.

    Args:
        strength: c.
        damping: xi, keeps the importance of what has hardly moved finite.
        protect: ``"backbone"``, or ``"all"`` for the heads too.

    Raises:
        ValueError: for a strength or damping <= 0, or an unknown word.
    """

    capturable = True

    def __init__(self, strength: float, *, damping: float = 0.1, protect: Protect = "backbone") -> None:
        check_strength("SI", strength)
        if not damping > 0:
            raise ValueError(f"SI: expected damping > 0, got {damping}")
        self.strength = strength
        self.damping = damping
        self.springs = Springs(protect)
        self._path: dict[str, Tensor] = {}  # omega; the springs rest where the path began

    def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
        """See :class:`pcl.losses.base.Penalty`."""
        return self.springs.gradient(parameters)

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The formula above, over the parameters given."""
        return self.springs.value(parameters)

    @torch.no_grad()
    def follow(self, parameters: Mapping[str, Tensor], before: list[Tensor], gradient: Gradient) -> None:
        """omega <- omega - g dtheta."""
        for (name, now), then, g in zip(parameters.items(), before, gradient, strict=True):
            if g is None or not self.springs.holds(name):
                continue
            if name not in self._path:
                self._path[name] = torch.zeros_like(then)
                self.springs.renew({name: torch.zeros_like(then)}, {name: then})
            self._path[name].addcmul_(g, now - then, value=-1)

    @torch.no_grad()
    def task_ended(self, model: ContinualModel, task: str) -> None:
        """Turn the path so far into importance, and hold on to the parameters as they are."""
        named = dict(model.named_parameters())
        for name, omega in self._path.items():
            length = (named[name] - self.springs[name].rest).square()
            importance = omega.clamp(min=0) / (length + self.damping)
            self.springs.renew({name: 2 * self.strength * importance}, {name: named[name]})
            omega.zero_()

    def settings(self) -> dict[str, Any]:
        """Those given."""
        return {"strength": self.strength, "damping": self.damping, "protect": self.springs.protect}

    def state_dict(self) -> dict[str, Any]:
        """Springs and path."""
        return {"springs": self.springs.state_dict(), "path": dict(self._path)}

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        device = next(model.parameters()).device
        self.springs.load_state_dict(state["springs"], device)
        self._path = {name: omega.to(device, copy=True) for name, omega in state["path"].items()}
