"""Which stored samples come back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from pcl import MIR, MLP, Balanced, Batches, ContinualModel, MemoryBatch, ReservoirMemory, Stream, Trainer
from pcl.memory.base import distinct
from pcl.memory.incoming import Incoming
from pcl.memory.retrieval import rank_in_group
from pcl.randomness import generator


def setup(count: int = 40, setting: Any = "class") -> tuple[ContinualModel, ReservoirMemory, Incoming]:
    """Two tasks with stored samples, one of which trains on with a third."""
    torch.manual_seed(3)
    model = ContinualModel(MLP(6, [9, 5]).double(), 5, setting)
    memory, draws = ReservoirMemory(200), generator(0, "setup")
    for task, classes in (("a", [0, 1]), ("b", [2, 3, 4])):
        model.add_task(task, classes)
        y = torch.tensor(classes)[torch.arange(count) % len(classes)]
        memory.observe(task, torch.rand(count, 6, dtype=torch.float64), y, classes, draws)
    model.add_task("c", [5])
    batches = {task: [(torch.rand(4, 6).double(), torch.full((4,), c))] for task, c in (("b", 2), ("c", 5))}
    return model, memory, Incoming(model, batches)


@pytest.mark.parametrize("setting", ["class", "task"])
def test_mir_takes_those_whose_loss_rises_most(setting: Any) -> None:
    model, memory, incoming = setup(setting=setting)
    drawn = memory.sample(30, generator(1))
    ahead = copy.deepcopy(model)
    loss = sum((model.losses(x, y, task).mean() for task, [(x, y)] in incoming.batches.items()), torch.zeros(()))
    gradient = torch.autograd.grad(loss / 2, list(model.parameters()), allow_unused=True)
    with torch.no_grad():
        for p, g in zip(ahead.parameters(), gradient, strict=True):
            p -= 0 if g is None else 0.3 * g
        rises = []
        for x, y, t in zip(drawn.x, drawn.y, drawn.task.tolist(), strict=True):
            later, now = (m.losses(x[None], y[None], drawn.names[t]) for m in (ahead, model))
            rises.append(float(later - now))
    best = sorted(range(30), key=lambda i: -rises[i])[:8]
    found = MIR(30, lr=0.3)(memory, incoming, 8, generator(1))
    assert torch.equal(found.index, drawn.index[best])
    for name in ("x", "y", "task"):
        assert torch.equal(getattr(found, name), getattr(drawn, name)[best])


def test_where_a_step_ahead_leads_depends_on_its_length() -> None:
    _, _, incoming = setup()
    parameters, u = incoming.parameters, incoming.gradient
    for lr in (0.1, 0.3, 0.1):
        for p, g, there in zip(parameters, u, u.reached(parameters, lr), strict=True):
            assert (g is None) == (there is None)
            assert g is None or there is None or torch.equal(there, torch.sub(p, g, alpha=lr))


def test_candidates_of_finished_tasks_alone() -> None:
    """Task "b" trains on; of "a" 40 samples are stored. The ranking is the same."""
    model, memory, incoming = setup()
    mir = MIR(30, lr=0.3, finished_only=True)
    found = mir(memory, incoming, 8, generator(1))
    of_a = (memory.task == memory.names.index("a")).nonzero()[:, 0]
    drawn = memory.take(of_a[distinct(30, len(of_a), generator(1))])
    assert torch.equal(found.index, drawn.index[mir.rise(drawn, incoming).argsort(descending=True)[:8]])
    batches = {**incoming.batches, "a": incoming.batches["b"]}
    at_random = mir(memory, Incoming(model, batches), 8, generator(1))
    assert torch.equal(at_random.index, memory.sample(8, generator(1)).index)


def test_candidates_by_task_need_a_memory_that_knows_them() -> None:
    _, _, incoming = setup()
    with pytest.raises(TypeError, match="MIR: finished_only needs a memory that knows its samples by task"):
        MIR(30, lr=0.3, finished_only=True)(object(), incoming, 8, generator(1))  # type: ignore[arg-type]


def test_samples_that_suffer_alike_come_in_the_order_of_the_draw() -> None:
    _, memory, incoming = setup()
    memory.x[:], memory.y[:] = memory.x[0].clone(), 0
    expected = memory.sample(50, generator(4)).index[:10]
    assert torch.equal(MIR(50, lr=0.1)(memory, incoming, 10, generator(4)).index, expected)


def test_no_more_stored_than_wanted() -> None:
    _, memory, incoming = setup(3)
    found = MIR(50, lr=0.1)(memory, incoming, 10, generator(0))
    assert sorted(found.index.tolist()) == list(range(6))
    assert len(MIR(50, lr=0.1)(memory, incoming, 5, generator(0)).y) == 5  # fewer candidates than asked for
    with pytest.raises(ValueError, match="10 samples are to be chosen from 9 candidates"):
        MIR(9, lr=0.1)(memory, incoming, 10, generator(0))


class Layers(nn.Sequential):
    """With statistics, and with draws."""

    def __init__(self) -> None:
        super().__init__(MLP(6, [16]), nn.BatchNorm1d(16), nn.Dropout(0.4))


def test_nothing_but_the_draws_is_touched() -> None:
    torch.manual_seed(0)
    model = ContinualModel(Layers(), 16, "class").train()
    model.add_task("a", [0, 1])
    memory = ReservoirMemory(30)
    memory.observe("a", torch.rand(20, 6), torch.arange(20) % 2, [0, 1], generator(0))
    incoming = Incoming(model, {"a": [(torch.rand(4, 6), torch.zeros(4, dtype=torch.int64))]})
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = MIR(12, lr=0.1)(memory, incoming, 4, generator(0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert not found.x.requires_grad


def test_the_gradient_of_several_batches_is_that_of_all_their_samples() -> None:
    model, _, _ = setup()
    x, y = torch.rand(10, 6).double(), torch.arange(10) % 2
    batches = {"a": [(x[:4], y[:4]), (x[4:], y[4:])]}
    found = Incoming(model, batches).gradient
    expected = torch.autograd.grad(model.losses(x, y, "a").mean(), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert a is not None
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(("over", "groups"), [("task", 2), ("class", 5)])
@pytest.mark.parametrize("count", [1, 7, 10, 23, 60, 500])
def test_balanced_draws(over: Any, groups: int, count: int) -> None:
    _, memory, incoming = setup()
    found = Balanced(over)(memory, incoming, count, generator(count))
    assert len(found.index.unique()) == min(count, 80)
    column = "task" if over == "task" else "y"
    stored, drawn = (torch.bincount(getattr(m, column), minlength=groups) for m in (memory, found))
    least = min(int(n) for n, s in zip(drawn, stored, strict=True) if n < s) if count < 80 else 80
    for n, s in zip(drawn.tolist(), stored.tolist(), strict=True):
        assert n == s <= least or n in (least, least + 1)


def test_balanced_draws_prefer_nobody() -> None:
    _, memory, incoming = setup()
    draws, counts = generator(0), torch.zeros(80)
    for _ in range(3000):
        counts[Balanced("task")(memory, incoming, 5, draws).index] += 1
    p = 2.5 / 40  # of the rest, one sample, both tasks have their half
    assert (counts - 3000 * p).abs().max() < 5 * (3000 * p * (1 - p)) ** 0.5


def test_ranks_in_groups() -> None:
    assert rank_in_group(torch.tensor([3, 5, 3, 3, 5])).tolist() == [0, 0, 1, 2, 1]
    assert rank_in_group(torch.tensor([], dtype=torch.int64)).tolist() == []


def trainer(**arguments: Any) -> Trainer:
    torch.manual_seed(0)
    model = ContinualModel(Layers(), 16)
    given = {"memory": ReservoirMemory(20), "memory_batch": 4, **arguments}
    t = Trainer(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **given)
    for task, classes, start in (("a", [0, 1], 0), ("b", [2, 3], 5)):
        x = torch.rand(40, 6, generator=generator(1, task))
        t.add(Stream(task, Batches(x, torch.tensor(classes * 20), 4, name=task), classes, start=start))
    return t


@pytest.mark.parametrize("retrieval", [MIR(10, lr=0.1), Balanced("class")], ids=["mir", "balanced"])
def test_a_resumed_run_gives_the_same_bits(retrieval: Any) -> None:
    whole, first, second = (trainer(retrieval=retrieval) for _ in range(3))
    torch.manual_seed(1)
    whole.fit(12)
    torch.manual_seed(1)
    first.fit(7)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit(5)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])
    with pytest.raises(ValueError, match="another retrieval"):
        trainer().load_state_dict(first.state_dict())


def test_rehearsal_begins_with_the_second_step() -> None:
    """The first step's batch is drawn from in the second, not in the first: samples come back before others go in."""
    t = trainer()
    assert t.memory is not None
    drawn: list[MemoryBatch] = []
    sample = t.memory.sample

    def watched(count: int, draws: torch.Generator) -> MemoryBatch:
        assert len(t.memory or ()) == min(4 * t.step_count, 20)
        drawn.append(sample(count, draws))
        return drawn[-1]

    t.memory.sample = watched  # type: ignore[method-assign]
    results = [t.step() for _ in range(3)]
    assert [r.tasks for r in results if r is not None] == [("a",), ("a", "MEMORY"), ("a", "MEMORY")]
    assert len(drawn) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"retrieval": MIR(lr=0.1), "memory": None}, "retrieval chooses stored samples"),
        ({"retrieval": MIR(lr=0.1), "memory_tasks": "each"}, "leave one of them out"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(**arguments)


@pytest.mark.parametrize(
    "make",
    [lambda: MIR(0, lr=0.1), lambda: MIR(lr=0.0), lambda: Balanced("label")],  # type: ignore[arg-type]
)
def test_bad_settings_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()
