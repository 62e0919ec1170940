"""Models, one for every layer type that one pass covers, and batches of unequal tasks for them."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import ResNet18


class Reuse(nn.Module):
    """One layer that runs twice, an activation in place, and a weight that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.tied, self.outer = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.tied.weight = self.inner.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x))
        h = self.inner(h).relu_()
        return self.outer(self.tied(h))


class Words(nn.Module):
    """Words whose embedding is also the weight of a Linear layer, as language models tie them."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4, **options)  # type: ignore[arg-type]
        self.middle, self.out = nn.Linear(4, 4), nn.Linear(4, 11)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.middle(self.embedding(x)))).mean(dim=1)


class Folded(nn.Module):
    """Samples whose positions become rows, as in attention over windows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.out = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.inner(x.reshape(-1, x.shape[-1])))
        return self.out(torch.tanh(h)).view(len(x), -1)


def flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten())


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)), (5,)),
    "wide linear, by ghost products": (lambda: nn.Sequential(nn.Linear(70, 60), nn.Tanh(), nn.Linear(60, 50)), (70,)),
    "linear on positions": (lambda: flat(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)), (6, 3)),
    "positions as rows": (Folded, (4, 3)),
    "conv1d": (lambda: flat(nn.Conv1d(2, 3, 3, stride=2, padding=1), nn.Tanh(), nn.Conv1d(3, 2, 2)), (2, 9)),
    "conv2d": (lambda: flat(nn.Conv2d(2, 3, (3, 2), stride=2, padding=(2, 1), dilation=2), nn.Tanh()), (2, 9, 9)),
    "conv2d, groups": (
        lambda: flat(nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 2, groups=6)),
        (4, 5, 5),
    ),
    "conv2d, same": (
        lambda: flat(nn.Conv2d(2, 3, (2, 3), padding="same", bias=False), nn.Tanh(), nn.Conv2d(3, 2, 3)),
        (2, 5, 5),
    ),
    "conv2d, valid": (lambda: flat(nn.Conv2d(2, 3, 2, padding="valid"), nn.Tanh()), (2, 4, 4)),
    "conv2d, circular": (
        lambda: flat(nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), nn.Tanh()),
        (2, 5, 5),
    ),
    "conv3d": (lambda: flat(nn.Conv3d(1, 2, 2, padding=1), nn.Tanh()), (1, 3, 3, 3)),
    "embedding": (lambda: flat(nn.Embedding(11, 4, padding_idx=2), nn.Tanh()), (6,)),
    "tied embedding": (Words, (6,)),
    "layer norm": (lambda: flat(nn.LayerNorm((3, 4)), nn.Linear(4, 4), nn.LayerNorm(4, bias=False), nn.Tanh()), (3, 4)),
    "group norm": (lambda: flat(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh()), (2, 5, 5)),
    "batch norm 1d": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)), (5,)),
    "batch norm 2d": (lambda: flat(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Tanh()), (2, 5, 5)),
    "batch norm, average of all": (
        lambda: flat(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Tanh()),
        (2, 5, 5),
    ),
    "batch norm, no statistics": (
        lambda: flat(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh()),
        (2, 5, 5),
    ),
    "batch norm, no parameters": (
        lambda: flat(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Tanh()),
        (2, 5, 5),
    ),
    "layers used twice": (Reuse, (5,)),
    "relu in place": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), (5,)),
    "residual network": (lambda: ResNet18(1, 4), (1, 16, 16)),
}


class Problem(NamedTuple):
    """The arguments of task_gradients."""

    model: nn.Module
    heads: nn.ModuleDict
    inputs: dict[str, Tensor]
    losses: Mapping[str, Callable[[Tensor], Tensor]]
    shared: list[nn.Parameter]
    own: list[nn.Parameter]


SIZES = (3, 5, 4)


def make(name: str, dtype: torch.dtype = torch.float64, sizes: tuple[int, ...] = SIZES) -> Problem:
    """A model of the list above with a head per task and batches of these sizes."""
    build, shape = MODELS[name]
    torch.manual_seed(0)
    return problem(build(), shape, dtype, sizes)


def problem(model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, sizes: tuple[int, ...]) -> Problem:
    """Heads, batches and losses for any model."""
    model = model.to(dtype)
    words = any(isinstance(m, nn.Embedding) for m in model.modules())
    tasks = [f"task {i}" for i in range(len(sizes))]
    xs = [torch.randint(11, (n, *shape)) if words else torch.randn(n, *shape, dtype=dtype) for n in sizes]
    states = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.no_grad():
        width = model(xs[0]).shape[1]
        for buffer, before in states:
            buffer.copy_(before)
    heads = nn.ModuleDict({task: nn.Linear(width, 4) for task in tasks}).to(dtype)
    targets = {task: torch.randint(4, (n,)) for task, n in zip(tasks, sizes, strict=True)}

    def loss_of(task: str) -> Callable[[Tensor], Tensor]:
        return lambda features: F.cross_entropy(heads[task](features), targets[task])

    losses = {task: loss_of(task) for task in tasks}
    shared, own = list(model.parameters()), list(heads.parameters())
    return Problem(model, heads, dict(zip(tasks, xs, strict=True)), losses, shared, own)
