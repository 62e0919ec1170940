"""What the tests of growth in training share: streams, a trainer that grows, and someone who watches it."""

from typing import Any

import torch
from torch import Tensor

from pcl import Budget, Firefly, Grow, GrowingModel, GrowWhen, Stream, Trainer
from tests.models.growing_cases import CLASSES, growing, samples

AFTER_FOUR = GrowWhen("task", steps=4)


def stream(task: str, batches: int = 8, **arguments: Any) -> Stream:
    return Stream(
        task, [samples(task, 4, seed=i) for i in range(batches)], CLASSES[task], test=samples(task), **arguments
    )


class Watch:
    """What finished tasks said when they ended, and all records."""

    def __init__(self) -> None:
        self.said: dict[str, Tensor] = {}
        self.steps: list[dict[str, Any]] = []
        self.growths: list[dict[str, Any]] = []
        self.sizes: list[int] = []

    def on_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.steps.append(record)

    def on_growth(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.growths.append(record)
        assert isinstance(trainer.model, GrowingModel)
        named = trainer.model.named_parameters()
        self.sizes.append(sum(p.numel() for name, p in named if not name.startswith("masks.")))

    def on_task_end(self, trainer: Trainer, task: str) -> None:
        self.said[task] = said(trainer, task)


@torch.no_grad()
def said(trainer: Trainer, task: str) -> Tensor:
    trainer.model.eval()
    found: Tensor = trainer.model(samples(task, 32, seed=77)[0], task)
    trainer.model.train()
    return found


def trainer(*streams: Stream, when: GrowWhen = AFTER_FOUR, neurons: int = 4, **arguments: Any) -> tuple[Trainer, Watch]:
    torch.manual_seed(0)
    watch = Watch()
    grow = Grow(Firefly(new=3, steps=3, lr=0.05), Budget(neurons=neurons), when, batches=2)
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)}
    made = Trainer(growing(), callbacks=[grow, watch], **{**given, **arguments})
    for s in streams:
        made.add(s)
    return made, watch


def three(batches: int = 8) -> list[Stream]:
    """One after the other, and two at once."""
    return [stream("a", batches), stream("b", batches, start=8), stream("c", batches, start=10)]
