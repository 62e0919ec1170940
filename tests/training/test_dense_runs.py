"""Whole runs of perceptrons without a graph, beside the same with a listener, which take autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pcl import DER, EWC, HAL, MIR, GMEDEdit, LwF, Mean, ReservoirMemory, Stream, Sum, Trainer
from pcl.gradients.dense import DensePass
from tests.gradients.dense_cases import batches, close, hooked, model

TERMS: dict[str, Callable[[], list[Any]]] = {
    "nothing": list,
    "DER": lambda: [DER(0.5)],
    "DER++": lambda: [DER(0.5, 0.7)],
    "DER++, unseen columns ignored": lambda: [DER(0.5, 0.7, unseen="ignored")],
    "HAL": lambda: [HAL(steps=3)],
    "DER and HAL": lambda: [DER(0.5), HAL(steps=3)],
    "EWC": lambda: [EWC(1.0)],
    "LwF": lambda: [LwF(1.0)],
}


@pytest.mark.parametrize("gramian", ["needed", "always"])
@pytest.mark.parametrize("weighting", [Sum, Mean])
@pytest.mark.parametrize("memory_tasks", ["one", "each"])
@pytest.mark.parametrize("terms", TERMS)
def test_a_run_goes_as_it_does_with_a_listener(
    terms: str, memory_tasks: Any, weighting: Callable[[], Any], gramian: Any
) -> None:
    """Which autograd has to find."""
    ends = []
    for listen in (False, True):
        of = model(heads=0)
        if listen:
            hooked(of)
        trainer = Trainer(
            of, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), weighting=weighting(), gramian=gramian,
            memory=ReservoirMemory(20, logits="DER" in terms), memory_batch=5, memory_tasks=memory_tasks,
            loss_terms=TERMS[terms](),
        )  # fmt: skip
        for number in range(2):
            x, y = batches({f"{n}": 4 for n in range(5)}, 2)
            pairs = [(x[n], y[n] + 2 * number) for n in x]
            trainer.add(Stream(f"s{number}", pairs, [2 * number, 2 * number + 1], start=3 * number))
        losses = []
        while (result := trainer.step()) is not None:
            losses.append(result.losses)
        ends.append([*losses, *[p.detach() for p in of.parameters()]])
    close(*ends)


def test_the_ways_without_a_graph_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the runs above compare autograd with itself."""
    taken: list[str] = []
    for name in ("backward", "descend", "replay", "follow"):
        was = getattr(DensePass, name)
        monkeypatch.setattr(
            DensePass, name, lambda *given, name=name, was=was, **named: (taken.append(name), was(*given, **named))[1]
        )
    for terms in ("DER", "HAL", "nothing"):
        taken.clear()
        trainer = Trainer(
            model(heads=0), optimizer=lambda p: torch.optim.SGD(p, lr=0.1), weighting=Sum(),
            memory=ReservoirMemory(20, logits=terms == "DER"), loss_terms=TERMS[terms](),
        )  # fmt: skip
        x, y = batches({"0": 4, "1": 4}, 2)
        trainer.add(Stream("s", [(x[n], y[n]) for n in x], [0, 1]))
        trainer.fit()
        ahead = terms == "HAL"  # which wants the gradient itself
        assert taken.count("descend") == 2 * (not ahead)
        assert taken.count("backward") == 2 * ahead
        assert taken.count("replay") == (terms == "DER")  # nothing is stored at the first step
        assert taken.count("follow") == 2 * ahead


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_optimizer_that_somebody_watches_makes_the_same_run(by_hand: bool) -> None:
    """To the bit, though the gradients are found first and used then."""
    ends = []
    for watched in (False, True):
        of = model(heads=0)
        trainer = Trainer(
            of, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), weighting=Sum(),
            memory=ReservoirMemory(20), memory_batch=5, clip=1e9 if watched and by_hand else None,
        )  # fmt: skip
        seen: list[bool] = []
        if watched and not by_hand:
            trainer.optimizer.register_step_post_hook(
                lambda *_, of=of, seen=seen: seen.append(all(p.grad is not None for p in of.parameters()))
            )
        x, y = batches({f"{n}": 4 for n in range(5)}, 2)
        trainer.add(Stream("s", [(x[n], y[n]) for n in x], [0, 1]))
        trainer.fit()
        assert seen == [True] * (5 * (watched and not by_hand))
        assert watched or all(p.grad is None for p in of.parameters())
        ends.append(torch.cat([p.detach().flatten() for p in of.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("kind", ["some parameters", "two rates", "clip", "an edit after the update"])
def test_updates_of_other_kinds_are_as_with_a_listener(kind: str) -> None:
    ends = []
    for listen in (False, True):
        of, some = model(heads=0), 2 if kind == "some parameters" else 6
        if listen:
            hooked(of)
        trainer = Trainer(
            of, optimizer=lambda p, some=some: torch.optim.SGD(list(p)[:some], lr=0.1),  # type: ignore[misc]
            memory=ReservoirMemory(20), memory_batch=4, clip=0.1 if kind == "clip" else None,
            edit=GMEDEdit(1.0, valid=None) if "edit" in kind else None,
        )  # fmt: skip
        x, y = batches({f"{n}": 4 for n in range(5)}, 2)
        trainer.add(Stream("s", [(x[n], y[n]) for n in x], [0, 1]))
        trainer.step()
        if kind == "two rates":
            trainer.optimizer.param_groups[1]["lr"] = 0.01
        trainer.fit()
        memory = trainer.memory
        assert isinstance(memory, ReservoirMemory)
        ends.append([*[p.detach() for p in of.parameters()], memory.x])
    close(*ends)


def test_a_rate_of_zero_changes_nothing() -> None:
    of = model(heads=0)
    trainer = Trainer(of, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    x, y = batches({"0": 4}, 2)
    trainer.add(Stream("s", [(x["0"], y["0"])] * 3, [0, 1]))
    trainer.step()
    before = [p.detach().clone() for p in of.parameters()]
    trainer.step()
    assert all(map(torch.equal, before, of.parameters()))


def test_layers_without_bias() -> None:
    ends = []
    for listen in (False, True):
        of = model(heads=0)
        of.backbone[3].bias = None  # type: ignore[index, union-attr]
        if listen:
            hooked(of)
        trainer = Trainer(
            of, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), memory=ReservoirMemory(20), memory_batch=4,
            retrieval=MIR(8, lr=0.1),
        )  # fmt: skip
        x, y = batches({f"{n}": 4 for n in range(5)}, 2)
        trainer.add(Stream("s", [(x[n], y[n]) for n in x], [0, 1]))
        trainer.fit()
        assert (of.dense() is None) == listen
        ends.append([p.detach() for p in of.parameters()])
    close(*ends)
