"""One training step on k tasks with batches of their own, done by us and by others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import EMGD, MLP, ResNet18, Workspace, task_gradients
from pcl_kernels import simplex_qp

#: name: (backbone, its features, shape of a sample)
MODELS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    "MLP 784-400-400": (lambda: MLP(784, [400, 400]), 400, (784,)),
    "reduced ResNet-18": (lambda: ResNet18(3, 20), 160, (3, 32, 32)),
    "ResNet-18": (lambda: ResNet18(3, 64), 512, (3, 32, 32)),
}


class Steps:
    """Whole steps: forward, backward, weighting and SGD with momentum, on the same model and batches."""

    def __init__(self, model: str, tasks: int, per_task: int) -> None:
        torch.manual_seed(0)
        build, features, shape = MODELS[model]
        self.backbone = build()
        self.heads = nn.ModuleList([nn.Linear(features, 5) for _ in range(tasks)])
        self.xs = [torch.randn(per_task, *shape) for _ in range(tasks)]
        self.ys = [torch.randint(5, (per_task,)) for _ in range(tasks)]
        self.shared, self.own = list(self.backbone.parameters()), list(self.heads.parameters())
        self.losses = {str(i): self._loss(i) for i in range(tasks)}
        self.inputs = {str(i): x for i, x in enumerate(self.xs)}
        self.optimizer = torch.optim.SGD([*self.shared, *self.own], lr=1e-4, momentum=0.9)
        self.weighting = EMGD("gmc")
        self.workspace = Workspace()

    def _loss(self, i: int) -> Callable[[Tensor], Tensor]:
        return lambda features: F.cross_entropy(self.heads[i](features), self.ys[i])

    def _task_losses(self) -> list[Tensor]:
        return [loss_of(self.backbone(x)) for loss_of, x in zip(self.losses.values(), self.xs, strict=True)]

    def plain(self) -> None:
        """The sum of the k losses, one backward pass."""
        self.optimizer.zero_grad()
        torch.stack(self._task_losses()).sum().backward()
        self.optimizer.step()

    def concatenated(self) -> None:
        """As plain, with the batches run as one: for a model without batch statistics."""
        self.optimizer.zero_grad()
        blocks = self.backbone(torch.cat(self.xs)).split([len(x) for x in self.xs])
        torch.stack([loss_of(f) for loss_of, f in zip(self.losses.values(), blocks, strict=True)]).sum().backward()
        self.optimizer.step()

    def ours(self, strategy: Literal["auto", "loop", "segment", "lowmem"] = "auto") -> None:
        """EMGD on task_gradients."""
        found = task_gradients(
            self.losses,
            self.shared,
            self.own,
            model=self.backbone,
            inputs=self.inputs,
            strategy=strategy,
            workspace=self.workspace,
        )
        weights = self.weighting(found.gramian(), found.losses, found.tasks)
        for parameter, gradient in zip([*self.shared, *self.own], [*found.combine(weights), *found.own], strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def stacked(self) -> None:
        """EMGD on k calls of autograd.grad and J @ J.T, as one writes it by hand."""
        rows, losses = [], []
        for i, (loss_of, x) in enumerate(zip(self.losses.values(), self.xs, strict=True)):
            loss, head = loss_of(self.backbone(x)), list(self.heads[i].parameters())
            gradients = torch.autograd.grad(loss, [*self.shared, *head])
            rows.append(torch.cat([g.flatten() for g in gradients[: len(self.shared)]]))
            losses.append(loss.detach())
            for parameter, gradient in zip(head, gradients[len(self.shared) :], strict=True):
                parameter.grad = gradient
        jacobian = torch.stack(rows)
        weights = self.weighting((jacobian @ jacobian.T).double(), torch.stack(losses), list(self.losses))
        direction = weights.to(jacobian.dtype) @ jacobian
        for parameter, part in zip(self.shared, direction.split([p.numel() for p in self.shared]), strict=True):
            parameter.grad = part.view_as(parameter)
        self.optimizer.step()

    def torchjd(self) -> None:
        """MGDA on mtl_backward of torchjd."""
        from torchjd.aggregation import MGDA
        from torchjd.autojac import jac_to_grad, mtl_backward

        self.optimizer.zero_grad()
        features = [self.backbone(x) for x in self.xs]
        losses = [loss_of(f) for loss_of, f in zip(self.losses.values(), features, strict=True)]
        mtl_backward(losses, features)
        jac_to_grad(self.shared, MGDA())
        self.optimizer.step()


class SharedInput:
    """k losses of one batch of the MLP."""

    def __init__(self, tasks: int, rows: int) -> None:
        torch.manual_seed(0)
        self.model, self.heads = MLP(784, [400, 400]), nn.ModuleList([nn.Linear(400, 5) for _ in range(tasks)])
        self.x, self.ys = torch.randn(rows, 784), [torch.randint(5, (rows,)) for _ in range(tasks)]
        self.shared, self.own = list(self.model.parameters()), list(self.heads.parameters())
        self.losses = {str(i): self._loss(i) for i in range(tasks)}

    def _loss(self, i: int) -> Callable[[Tensor], Tensor]:
        return lambda features: F.cross_entropy(self.heads[i](features), self.ys[i])

    def _task_losses(self) -> list[Tensor]:
        features = self.model(self.x)
        return [loss_of(features) for loss_of in self.losses.values()]

    def summed(self) -> object:
        """The gradient of the summed loss."""
        return torch.autograd.grad(torch.stack(self._task_losses()).sum(), [*self.shared, *self.own])

    def separate(self) -> object:
        """k calls of autograd.grad."""
        losses = self._task_losses()
        return [
            torch.autograd.grad(loss, [*self.shared, *head.parameters()], retain_graph=True)
            for loss, head in zip(losses, self.heads, strict=True)
        ]

    def ours(self, level: Literal["parameters", "features"]) -> object:
        """Task gradients and, for the features, Gramian and direction too."""
        found = task_gradients(self.losses, self.shared, self.own, model=self.model, inputs=self.x, level=level)
        if level == "parameters":
            return found
        return found.combine(simplex_qp(found.gramian()))
