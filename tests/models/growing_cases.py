"""Small growing models and data for their tests."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import MLP, GrowingModel
from pcl.models.growth.choice import Budget
from pcl.models.growth.firefly import Firefly


class Residual(nn.Module):
    """Two convolutions whose channels an addition ties, with BatchNorm, a depthwise one, and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.outer = nn.Conv2d(4, 5, 3, padding=1)
        self.each = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.last = nn.Linear(5 * 4, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.outer(self.inner(x)))
        x = F.max_pool2d(torch.relu(self.each(x)), 3)
        return torch.relu(self.last(x.flatten(1)))


def backbone(kind: str) -> nn.Module:
    """From samples (B, 1, 6, 6) to features (B, 6)."""
    torch.manual_seed(3)
    if kind == "mlp":
        return MLP(36, [8, 6])
    if kind == "conv":
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(4 * 9, 6), nn.BatchNorm1d(6), nn.ReLU()),
        )
    return Residual()


KINDS = ("mlp", "conv", "residual")
CLASSES = {"a": [0, 1], "b": [2, 3], "c": [4, 5], "d": [6, 7]}


def growing(kind: str = "mlp", dtype: torch.dtype = torch.float32) -> GrowingModel:
    return GrowingModel(backbone(kind).to(dtype), 6, torch.rand(1, 1, 6, 6, dtype=dtype))


def samples(task: str, n: int = 16, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Noise with a bright corner per class."""
    draws = torch.Generator().manual_seed(seed)
    y = torch.tensor(CLASSES[task])[torch.arange(n) % 2]
    x = torch.rand(n, 1, 6, 6, generator=draws, dtype=dtype)
    for row, label in zip(x, y.tolist(), strict=True):
        row[0, label // 4 * 3 : label // 4 * 3 + 3, label % 4 : label % 4 + 2] += 1.0
    return x, y


def train(model: GrowingModel, task: str, steps: int = 10, kind: str = "adamw") -> torch.optim.Optimizer:
    """Some steps on one task, with an optimizer that moves parameters also without a gradient."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.2)
    if kind == "momentum":
        optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.05)
    model.train()
    for step in range(steps):
        optimizer.zero_grad(set_to_none=False)
        model.losses(*samples(task, seed=step), task).mean().backward()
        optimizer.step()
    return optimizer


def grow(model: GrowingModel, *tasks: str, neurons: int = 5, optimizer: torch.optim.Optimizer | None = None) -> None:
    dtype = next(model.backbone.parameters()).dtype
    batches = {task: [samples(task, seed=50 + i, dtype=dtype) for i in range(2)] for task in tasks}
    model.grow(Firefly(new=3, steps=4, lr=0.05), batches, Budget(neurons=neurons), optimizer=optimizer)


@torch.no_grad()
def logits(model: GrowingModel, task: str) -> Tensor:
    """In evaluation mode."""
    model.eval()
    dtype = next(model.backbone.parameters()).dtype
    found: Tensor = model(samples(task, 32, seed=99, dtype=dtype)[0], task)
    model.train()
    return found
