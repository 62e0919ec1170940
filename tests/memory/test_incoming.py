"""Stored samples that pass beside the incoming batches, and the step that takes what was found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pcl import (
    DER,
    MGDA,
    MIR,
    MLP,
    BeforeUpdate,
    ContinualModel,
    GMEDEdit,
    MemoryBatch,
    ReservoirMemory,
    Stream,
    Sum,
    Trainer,
)  # fmt: skip
from pcl.gradients import dense
from pcl.gradients.dense import DensePass
from pcl.memory.course import Course
from pcl.memory.incoming import Incoming
from pcl.memory.stored_losses import StoredLosses

CLASSES = 5


def setup(heads: int = 2) -> tuple[ContinualModel, MemoryBatch, Incoming]:
    torch.manual_seed(0)
    model = ContinualModel(MLP(12, [9, 7]), 7, "class")
    for number in range(heads):
        model.add_task(f"task {number}", [2 * number, 2 * number + 1])
    draws = torch.Generator().manual_seed(1)
    x, y = torch.randn(6, 12, generator=draws), torch.randint(2 * heads, (6,), generator=draws)
    stored = MemoryBatch(x, y, torch.zeros(6, dtype=torch.int64), model.tasks, torch.tensor([3, 9, 4, 1, 0, 7]))
    batches = {
        task: [(torch.randn(n, 12, generator=draws), torch.arange(n) % (2 * heads))]
        for task, n in zip(model.tasks, (4, 3), strict=False)
    }
    return model, stored, Incoming(model, batches)


@pytest.mark.parametrize("heads", [1, 2])
def test_losses_beside_the_batches_have_the_bits_of_those_alone(heads: int) -> None:
    model, stored, incoming = setup(heads)
    alone = Incoming(model, incoming.batches)
    assert torch.equal(incoming.losses_of(stored), StoredLosses(model, stored, model.dense()).values())
    assert all(map(torch.equal, incoming.gradient, alone.gradient))
    ends = [look.gradient.reached(look.parameters, 0.1) for look in (incoming, alone)]
    assert all(map(torch.equal, *ends))  # type: ignore[arg-type]
    assert torch.equal(incoming.losses_of(stored), alone.losses_of(stored))  # a second look, and one after the gradient
    assert alone.seen(stored) is None


@pytest.mark.parametrize("heads", [1, 2])
def test_a_later_pass_takes_rows_that_have_been_seen(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, stored, incoming = setup(heads)
    incoming.losses_of(stored)
    chosen = stored.take(torch.tensor([4, 1, 3]))
    inputs = {**{task: x for task, [(x, _)] in incoming.batches.items()}, "MEMORY": chosen.x}
    labels = {**{task: y for task, [(_, y)] in incoming.batches.items()}, "MEMORY": chosen.y}
    anew = DensePass.of(model, model.dense(), inputs, labels)
    seen = incoming.seen(chosen)
    assert anew is not None
    assert seen is not None
    assert incoming.seen(stored) is not None
    unknown = MemoryBatch(chosen.x, chosen.y, chosen.task, chosen.names, torch.tensor([4, 1, 5]))
    assert incoming.seen(unknown) is None

    def again() -> DensePass:
        found = DensePass.of(model, model.dense(), inputs, labels, seen=seen)
        assert found is not None
        return found

    whole = dense.mlp_losses
    monkeypatch.setattr(dense, "mlp_losses", None)
    taken = again()
    monkeypatch.setattr(dense, "mlp_losses", whole)
    assert torch.equal(taken.losses, anew.losses)
    assert torch.equal(taken.logits, anew.logits)
    wanted = {id(p) for p in model.parameters()}
    ours, theirs = (run.gradients(torch.ones(heads + 1), wanted=wanted, weighted_heads=True) for run in (taken, anew))
    assert all(torch.equal(ours[i], theirs[i]) for i in wanted)  # type: ignore[arg-type]
    with torch.no_grad():
        model.backbone[1].bias.add_(0.5)  # type: ignore[index, operator, union-attr]
    other = DensePass.of(model, model.dense(), inputs, labels)
    assert other is not None
    assert torch.equal(again().logits, other.logits)
    assert not torch.equal(other.logits, anew.logits)


def run(**settings: Any) -> tuple[list[Tensor], int]:
    """The parameters after some steps, and the forward passes of a step."""
    torch.manual_seed(0)
    model = ContinualModel(MLP(12, [9, 7]), 7, "class")
    keeps = any(isinstance(term, DER) for term in settings.get("loss_terms", ()))
    trainer = Trainer(
        model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), memory=ReservoirMemory(30, logits=keeps), memory_batch=4,
        **settings,
    )  # fmt: skip
    draws = torch.Generator().manual_seed(1)
    for name in ("a", "b"):
        batches = [
            (torch.randn(4, 12, generator=draws), torch.randint(CLASSES, (4,), generator=draws)) for _ in range(9)
        ]
        trainer.add(Stream(name, batches, range(CLASSES)))
    trainer.fit(8)
    passes, made = 0, dense.mlp_losses

    def counted(*given: Any) -> Any:
        nonlocal passes
        passes += 1
        return made(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "mlp_losses", counted)
        trainer.step()
    return [p.detach() for p in model.parameters()], passes


EDIT = GMEDEdit(2.0, lr=0.1, valid=None)


@pytest.mark.parametrize(
    ("settings", "passes"),
    [
        ({"retrieval": MIR(9, lr=0.1)}, 1),
        ({"retrieval": MIR(9, lr=0.1), "weighting": MGDA()}, 1),
        ({"retrieval": MIR(9, lr=0.1), "edit": BeforeUpdate(EDIT, "others")}, 1),
        ({"retrieval": MIR(9, lr=0.1), "edit": BeforeUpdate(EDIT, "recalled")}, 2),  # the samples are other ones then
        ({"retrieval": MIR(9, lr=0.1), "loss_terms": [DER(0.5)]}, 1),
        ({"retrieval": MIR(9, lr=0.1), "loss_terms": [DER(0.5, 0.5)]}, 2),  # and a draw that nobody has seen
        ({}, 1),
    ],
)
def test_a_step_makes_no_pass_twice_and_goes_where_it_did(
    settings: dict[str, Any], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"weighting": Sum(), **settings}
    ours, found = run(**settings)
    assert found == passes
    monkeypatch.setattr(Incoming, "seen", lambda *_: None)
    theirs, _ = run(**settings)
    assert all(map(torch.equal, ours, theirs))


def test_a_frozen_layer_does_not_go_ahead() -> None:
    model, stored, _ = setup()
    model.backbone[1].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    batch = torch.randn(4, 12), torch.arange(4) % 2
    incoming = Incoming(model, {"task 0": [batch]})
    assert isinstance(incoming.gradient, Course)
    losses = StoredLosses(model, stored, model.dense())
    frozen = model.backbone[1].weight.clone()  # type: ignore[index, operator, union-attr]
    with losses.ahead(incoming.parameters, incoming.gradient, 0.5) as there:
        found = there.values()
        assert torch.equal(model.backbone[1].weight, frozen)  # type: ignore[index, union-attr, arg-type]
        torch.testing.assert_close(found, there(stored.x, slice(None)).detach(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(found, losses.values())
