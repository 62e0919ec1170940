"""Hindsight anchor learning."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pcl.gradients.result import Gradient
from pcl.losses.base import Samples, check_strength
from pcl.memory.base import Memory
from pcl.memory.course import moved
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode
from pcl.randomness import generator


class HAL:
    """Keeps what the model says of anchors, one for every class of every finished task (Chaudhry et al., "Using
    Hindsight to Anchor Past Knowledge in Continual Learning", AAAI 2021).

    To every step's direction g it adds, once tasks have ended, the gradient of

        strength * mean_e |z_e(theta) - z_e(theta')|^2 / C_e,      theta' = theta - lr g,

    where z_e are the C_e logits of anchor e in the columns of its task, and theta' is where the step alone would lead
    by plain gradient descent; it is held fixed, as in published code. Steps that would change the logits of anchors are
    so turned back.

    When a task ends, its anchors are found by gradient ascent, from random images, on

        l(e, y; theta_M) - l(e, y; theta) - gamma |f(e; theta) - f|^2,

    that is on how much they would be forgotten: theta_M is theta after one pass of gradient descent over the stored
    samples of the other tasks. f(e) are the features of the anchor, and f the mean features of the task, of whose
    batches ``decay`` of the mean so far and 1 - decay of the batch's make the new one. All steps have the rate ``lr``.

    Args:
        strength: lambda.
        gamma: how near anchors stay to the mean features of their task.
        decay: beta.
        lr: of the step ahead, of the pass over the memory and of the ascent.
        steps: of the ascent.
        batch: samples in a step of the pass over the memory.
        seed: of the images in which the ascent begins, and of the order of the pass.

    Raises:
        ValueError: for strength, gamma or lr <= 0, a decay outside [0, 1), steps < 1 or batch < 1.
    """

    capturable = False  # what it anchors grows, and moves with the parameters
    of_logits = True  # samples' features are only noted

    def __init__(
        self,
        strength: float = 0.1,
        *,
        gamma: float = 0.1,
        decay: float = 0.5,
        lr: float = 0.1,
        steps: int = 100,
        batch: int = 10,
        seed: int = 0,
    ) -> None:
        check_strength("HAL", strength)
        if not (gamma > 0 and lr > 0 and 0 <= decay < 1 and steps >= 1 and batch >= 1):
            raise ValueError(
                "HAL: expected gamma > 0, lr > 0, 0 <= decay < 1, steps >= 1 and batch >= 1, got "
                f"{gamma}, {lr}, {decay}, {steps} and {batch}"
            )
        self.strength, self.gamma, self.decay = strength, gamma, decay
        self.lr, self.steps, self.batch = lr, steps, batch
        self._draws = generator(seed, "hindsight anchors")
        self._noted: dict[str, Tensor] = {}  # mean features of the step's batches
        self._met_now: dict[str, Tensor] = {}  # which of the task's classes the step's batches have, bool
        self._features: dict[str, Tensor] = {}  # those of the tasks in training
        self._met: dict[str, Tensor] = {}  # which classes they have shown
        self._names: tuple[str, ...] = ()
        self._x = torch.empty(0)  # anchors (n, ...)
        self._task = torch.empty(0, dtype=torch.int64)  # (n,) index into names
        self._width = torch.empty(0, dtype=torch.int64)  # (n,) classes of the anchor's task

    @property
    def anchors(self) -> Tensor:
        """``(n, ...)``, one for every class that a finished task has shown, in their order."""
        return self._x

    def gradient_ahead(self, model: ContinualModel, parameters: Mapping[str, Tensor], gradient: Gradient) -> Gradient:
        """What is added to a direction; see :class:`pcl.losses.base.LooksAhead`."""
        moving = list(parameters.values())
        if len(self._x) == 0:
            return [None] * len(moving)
        with evaluation_mode(model):
            with torch.no_grad(), moved(moving, gradient, self.lr):  # type: ignore[arg-type]
                then = self._logits(model)
            with torch.enable_grad():
                now = self._logits(model)
                own = self._own_columns(model, now)
                apart = torch.where(own, now - then, 0.0).square().sum(dim=1) / own.sum(dim=1)
                found = torch.autograd.grad(self.strength * apart.mean(), moving, allow_unused=True)
        return list(found)

    def check_model(self, model: ContinualModel) -> None:
        """Refuse one that carries its state from batch to batch; see :class:`pcl.losses.base.ChecksModel`."""
        if model.carry is not None:
            raise ValueError(
                "HAL: anchors are images on their own, without the state that the model carries; leave out HAL or "
                "`carry`"
            )

    def losses(self, samples: Samples) -> Tensor | None:
        """Nothing is added to the losses of samples; the features of a batch are noted for :meth:`observe`."""
        if samples.recalled is None and torch.is_grad_enabled():  # a look at losses after the update has no gradients
            self._noted[samples.task] = samples.features.detach().mean(dim=0)
            self._met_now[samples.task] = samples.model.class_hit(samples.y, samples.task).any(dim=0)
        return None

    def observe(self, task: str, x: Tensor, y: Tensor) -> None:
        """The batch belongs to the mean features of its task; of several that a step accumulates the last one does."""
        now, before = self._noted[task], self._features.get(task)
        before = torch.zeros_like(now) if before is None else before
        self._features[task] = self.decay * before + (1 - self.decay) * now
        met = self._met_now[task]
        self._met[task] = met | self._met[task] if task in self._met else met

    def anchor(self, model: ContinualModel, task: str, memory: Memory | None, shape: torch.Size) -> None:
        """The task has ended: find its anchors; see :class:`pcl.losses.base.LooksAhead`."""
        mean, declared = self._features.pop(task), model.task_classes[task]
        classes = [c for c, met in zip(declared, self._met.pop(task).tolist(), strict=True) if met]
        later = self._forgetful(model, task, memory)
        y = torch.tensor(classes, device=mean.device)
        like = next(model.backbone.parameters())
        x = torch.rand((len(y), *shape), generator=self._draws, dtype=like.dtype).to(like.device)
        now = copy.deepcopy(model).eval().requires_grad_(False)
        later.requires_grad_(False)
        for _ in range(self.steps):
            x.requires_grad_()
            with torch.enable_grad():
                features = now.backbone(x)
                apart = (features - mean).square().sum(dim=1)
                forgotten = later.losses(x, y, task) - now.feature_losses(features, y, task)
                (slope,) = torch.autograd.grad((forgotten - self.gamma * apart).sum(), x)
            x = (x + self.lr * slope).detach()
        owner, width = torch.full_like(y, len(self._names)), torch.full_like(y, len(declared))
        self._names = (*self._names, task)
        self._x = torch.cat([self._x, x]) if len(self._x) else x
        self._task = torch.cat([self._task.to(owner.device), owner])
        self._width = torch.cat([self._width.to(width.device), width])

    def _forgetful(self, model: ContinualModel, task: str, memory: Memory | None) -> ContinualModel:
        """The model after one pass over the stored samples of other tasks."""
        later = copy.deepcopy(model).eval()
        if memory is None or len(memory) == 0:
            return later
        stored = torch.tensor([name != task for name in memory.names])[memory.task.cpu()].nonzero()[:, 0]
        parameters = [p for p in later.parameters() if p.requires_grad]
        for rows in stored[torch.randperm(len(stored), generator=self._draws)].split(self.batch):
            some = memory.take(rows)
            loss = later.mixed_losses(some.x, some.y, some.task, some.names).mean()
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
            with torch.no_grad():
                for p, slope in zip(parameters, slopes, strict=True):
                    if slope is not None:
                        p.sub_(slope, alpha=self.lr)
        return later

    def _logits(self, model: ContinualModel) -> Tensor:
        return model.mixed_logits(model.backbone(self._x), self._task, self._names)

    def _own_columns(self, model: ContinualModel, logits: Tensor) -> Tensor:
        """Which columns ``(n, columns)`` are those of the anchor's task: all in the class setting."""
        if model.setting == "class":
            return torch.ones_like(logits, dtype=torch.bool)
        return torch.arange(logits.shape[1], device=logits.device) < self._width[:, None]

    def task_ended(self, model: ContinualModel, task: str) -> None:
        """Done by :meth:`anchor`, which sees the memory."""

    def settings(self) -> dict[str, Any]:
        """Those given."""
        names = ("strength", "gamma", "decay", "lr", "steps", "batch")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Anchors, mean features of tasks in training, and where the drawing stands."""
        return {
            "names": list(self._names),
            "x": self._x,
            "task": self._task,
            "width": self._width,
            "features": dict(self._features),
            "met": dict(self._met),
            "draws": self._draws.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        device = next(model.parameters()).device
        self._names = tuple(state["names"])
        self._x, self._task, self._width = (state[name].to(device) for name in ("x", "task", "width"))
        self._features, self._met = (
            {task: of_task.to(device) for task, of_task in state[name].items()} for name in ("features", "met")
        )
        self._draws.set_state(state["draws"])
