"""Losses of stored samples and their slopes, with and without an autograd graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcl import MIR, MLP, BeforeUpdate, ContinualModel, GMEDEdit, ReservoirMemory, Stream, Trainer
from pcl.memory.base import MemoryBatch
from pcl.memory.stored_losses import StoredLosses


def losses(setting: Any = "class", listen: bool = False) -> tuple[StoredLosses, Tensor]:
    torch.manual_seed(0)
    model = ContinualModel(MLP(12, [9, 7]), 7, setting)
    for number in range(2):
        model.add_task(f"task {number}", [2 * number, 2 * number + 1])
    if listen:
        model.backbone[1].register_forward_hook(lambda *_: None)  # type: ignore[index, operator, union-attr]
    x, y = torch.randn(6, 3, 4), torch.tensor([0, 3, 1, 2, 2, 0])
    batch = MemoryBatch(x, y, y // 2, model.tasks, torch.arange(6))
    return StoredLosses(model, batch, model.dense()), x


@pytest.mark.parametrize("setting", ["class", "task"])
def test_they_are_those_of_the_model(setting: Any) -> None:
    of, x = losses(setting)
    moved = (x + 0.1).requires_grad_()
    found = of(moved, slice(None))
    torch.testing.assert_close(of.values(), of(x, slice(None)).detach(), rtol=1e-5, atol=1e-6)
    assert not of.values().requires_grad
    slopes = of.slopes(moved.detach())
    if setting == "task":
        assert slopes is None
    else:
        torch.testing.assert_close(slopes, torch.autograd.grad(found.sum(), moved)[0], rtol=1e-5, atol=1e-6)


def test_a_listener_has_autograd() -> None:
    of, x = losses(listen=True)
    assert of.slopes(x) is None


@pytest.mark.parametrize("mean_loss", [True, False])
def test_edits_and_retrieval_are_the_same_with_a_listener(mean_loss: bool) -> None:
    ends = []
    for listen in (False, True):
        torch.manual_seed(0)
        model = ContinualModel(MLP(12, [9, 7]), 7, "class")
        if listen:
            model.backbone[1].register_forward_hook(lambda *_: None)  # type: ignore[index, operator, union-attr]
        memory = ReservoirMemory(20)
        edit = GMEDEdit(2.0, lr=0.1, mean_loss=mean_loss, valid=None)
        trainer = Trainer(
            model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), memory=memory, memory_batch=4,
            retrieval=MIR(8, lr=0.1), edit=BeforeUpdate(edit, "others"),
        )  # fmt: skip
        draws = torch.Generator().manual_seed(1)
        stream = [(torch.randn(4, 12, generator=draws), torch.randint(3, (4,), generator=draws)) for _ in range(8)]
        trainer.add(Stream("s", stream, range(3)))
        trainer.fit()
        ends.append(torch.cat([*[p.detach().flatten() for p in model.parameters()], memory.x.flatten()]))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
    assert memory.mean_drift() > 1e-4
