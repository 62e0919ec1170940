"""Dark experience replay beside a plain implementation of it, and what it stores, draws and compares."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import blobs, everything, same, stream, trainer

from pcl import (
    DER,
    EMGD,
    MIR,
    MLP,
    BeforeUpdate,
    ClassMemory,
    ContinualModel,
    GMEDEdit,
    LwF,
    Mean,
    ReservoirMemory,
    Samples,
    Stream,
    Sum,
    Trainer,
    load_checkpoint,
    save_checkpoint,
)
from pcl.memory.base import MemoryBatch, Seen
from pcl.randomness import generator

RATE, BATCH, CAPACITY, CLASSES = 0.1, 4, 7, 6


def batches(count: int = 12) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(3)
    x = torch.rand(count, BATCH, 6, generator=draws, dtype=torch.float64)
    return list(zip(x, torch.randint(CLASSES, (count, BATCH), generator=draws), strict=True))


def plain(alpha: float, beta: float, features: nn.Module, head: nn.Linear) -> list[nn.Parameter]:
    """The published loop: all outputs from the start, two draws, storing after the update."""
    parameters = [*features.parameters(), *head.parameters()]
    retrieval, storage = (generator(0, "memory", use) for use in ("retrieval", "storage"))
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    zs: list[Tensor] = []
    seen = 0

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.randperm(len(xs), generator=retrieval)[:BATCH].tolist()
        return tuple(torch.stack([column[row] for row in rows]) for column in (xs, ys, zs))  # type: ignore[return-value]

    for x, y in batches():
        z = head(features(x))
        loss = F.cross_entropy(z, y)
        if xs:
            if beta:
                x_labelled, y_labelled, _ = draw()
                loss = loss + beta * F.cross_entropy(head(features(x_labelled)), y_labelled)
            x_dark, _, z_dark = draw()
            loss = loss + alpha * F.mse_loss(head(features(x_dark)), z_dark)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, g in zip(parameters, gradients, strict=True):
                p -= RATE * g
        uniform = torch.rand(BATCH, generator=storage, dtype=torch.float64)
        for i in range(BATCH):
            seen += 1
            place = seen - 1 if seen <= CAPACITY else int(uniform[i] * seen)
            if seen <= CAPACITY:
                xs.append(x[i]), ys.append(y[i]), zs.append(z[i].detach())
            elif place < CAPACITY:
                xs[place], ys[place], zs[place] = x[i], y[i], z[i].detach()
    return parameters


def ours(alpha: float, beta: float, **arguments: Any) -> Trainer:
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [8]).double(), 8, arguments.pop("setting", "class"))
    given: dict[str, Any] = {
        "weighting": Sum(),
        "memory": ReservoirMemory(CAPACITY, logits=True),
        "memory_batch": BATCH,
        "loss_terms": [DER(alpha, beta)],
    }
    return Trainer(model, optimizer=lambda p: torch.optim.SGD(p, lr=RATE), **{**given, **arguments})


@pytest.mark.parametrize("strategy", ["auto", "loop", "segment", "lowmem"])
@pytest.mark.parametrize("over", ["backbone", "all"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.0), (0.7, 0.4)], ids=["DER", "DER++"])
def test_it_is_the_published_loop(alpha: float, beta: float, strategy: Any, over: Any) -> None:
    t = ours(alpha, beta, strategy=strategy, gramian="needed" if strategy == "auto" else "always", gradients_over=over)
    t.add(Stream("a", batches(), range(CLASSES)))
    twin = copy.deepcopy(t.model)
    twin.add_task("a", range(CLASSES))
    expected = plain(alpha, beta, twin.backbone, twin.heads[0])  # type: ignore[arg-type]
    t.fit()
    assert t.step_count == len(batches())
    for mine, p in zip(t.model.parameters(), expected, strict=True):
        assert torch.allclose(mine, p, rtol=1e-9, atol=1e-12)


# ---- what is stored


class Spy(ReservoirMemory):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(50, logits=True)
        self.shown: list[tuple[str, Tensor, Tensor]] = []

    def observe(self, task: str, x: Tensor, y: Tensor, classes: Any, draws: Any, seen: Seen | None = None) -> None:
        assert seen is not None
        assert seen.logits is not None
        self.shown.append((task, x, seen.logits))
        super().observe(task, x, y, classes, draws, seen)


@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize(
    "arguments", [{}, {"accumulate": 2}, {"weighting": EMGD("gmc")}], ids=["plain", "accumulated", "weighted"]
)
def test_the_logits_are_those_before_the_update(setting: str, arguments: dict[str, Any]) -> None:
    memory = Spy()
    t = ours(0.5, 0.5, setting=setting, memory=memory, **arguments)
    for task, classes, start in (("a", [0, 1], 0), ("b", [4, 2, 3], 2)):
        x, y = blobs(classes, 40)
        t.add(Stream(task, list(zip(x.double().split(4), y.split(4), strict=True)), classes, start=start))
    for _ in range(4):
        before = copy.deepcopy(t.model)
        seen = len(memory.shown)
        t.step()
        assert len(memory.shown) > seen
        for task, x, logits in memory.shown[seen:]:
            if task in before.tasks:
                assert torch.allclose(before(x, task), logits[:, : len(before.columns(task))], rtol=1e-12)
            assert logits.shape == (4, len(t.model.columns(task)))
    width = {"task": 3, "class": 5}[setting]
    assert memory.logits.shape == (len(memory), width)
    early = memory.task == 0
    first = memory.logits[:8] if arguments.get("accumulate") != 2 else memory.logits[:16]
    assert first[:, 2:].isnan().all()  # no other class was there
    assert not memory.logits[:, :2].isnan().any()
    if setting == "task":
        assert memory.logits[early][:, 2].isnan().all()
        assert not memory.logits[~early].isnan().any()


def test_memories_that_do_not_ask_store_none() -> None:
    memory = ReservoirMemory(9)
    t = trainer(stream("a", [0, 1]), memory=memory)
    t.fit()
    assert len(memory.logits) == 0
    assert memory.sample(3, generator(0)).logits is None
    assert "logits" not in memory.state_dict()


def test_rows_keep_their_own_logits() -> None:
    """Of a batch of which several samples draw one place, and after more columns have come."""
    memory, draws, model = ReservoirMemory(5, logits=True), generator(1), ContinualModel(MLP(1, [2]), 2)
    for start in range(0, 60, 6):
        x = torch.arange(float(start), start + 6)[:, None]
        logits = x * torch.arange(1.0, 2 + (start >= 30) + (start >= 48))
        memory.observe("a", x, x[:, 0].long() % 2, [0, 1], draws, Seen(model, logits))
    assert memory.logits.shape == (5, 3)
    for x, row in zip(memory.x[:, 0], memory.logits, strict=True):
        known = 1 + int(x >= 30) + int(x >= 48)
        assert torch.equal(row[:known], x * torch.arange(1.0, 1 + known))
        assert row[known:].isnan().all()
    batch = memory.sample(3, generator(2))
    assert batch.logits is not None
    assert torch.equal(batch.logits[:, 0], batch.x[:, 0])
    fewer = batch.take(torch.tensor([2, 0])).logits
    assert fewer is not None
    assert torch.equal(fewer[:, 0], batch.x[[2, 0], 0])


def test_columns_come_with_the_classes_whether_or_not_a_row_is_kept() -> None:
    """So that shapes change where tasks begin, and not in some later step."""
    memory, draws, model = ReservoirMemory(1, logits=True), generator(1), ContinualModel(MLP(1, [2]), 2)
    x, y = torch.rand(99, 1), torch.zeros(99, dtype=torch.int64)
    memory.observe("a", x, y, [0], draws, Seen(model, torch.ones(99, 1)))
    memory.observe("b", x[:1], y[:1], [0], draws, Seen(model, torch.ones(1, 3)))
    assert memory.names[int(memory.task)] == "a"  # nothing of "b" was kept
    assert memory.logits.shape == (1, 3)
    assert memory.logits.isnan().tolist() == [[False, True, True]]


# ---- what is compared


@pytest.mark.parametrize("unseen", ["least", "ignored"])
@pytest.mark.parametrize("setting", ["task", "class"])
def test_columns_that_did_not_exist(setting: Any, unseen: Any) -> None:
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [8]).double(), 8, setting)
    model.add_task("a", [0, 1])
    model.add_task("b", [2, 3, 4])
    x, none = torch.rand(4, 6, dtype=torch.float64), torch.nan
    then = torch.tensor([[0.1, 0.2, none], [0.3, 0.4, 0.5], [0.6, 0.7, none], [-1.0, 2.0, 3.0]], dtype=torch.float64)
    task = torch.tensor([0, 1, 0, 1])
    if setting == "class":  # a sample of "b" has been seen with the five columns of both
        then = torch.cat([then, torch.full((4, 2), none)], dim=1)
        then[1, 3:] = 0.25
        then[3, 3:] = -0.5
        model.add_task("c", [5, 6])  # and none with the two that come last
    recalled = MemoryBatch(x, torch.tensor([0, 2, 1, 4]), task, ("a", "b"), torch.arange(4), logits=then)
    features = model.backbone(x).detach().requires_grad_()
    found = DER(2.0, unseen=unseen).losses(Samples(model, "MEMORY", x, recalled.y, features, recalled))
    assert found is not None
    expected = []
    for row, owner in enumerate(["a", "b", "a", "b"]):
        z, known = model(x[row : row + 1], owner)[0], ~then[row].isnan()
        if setting == "class" and unseen == "least":
            target = [*then[row][known].tolist(), *[float(then[row][known].min())] * (7 - int(known.sum()))]
            expected.append(2.0 * F.mse_loss(z, torch.tensor(target, dtype=torch.float64)))
        else:
            columns = min(len(z), then.shape[1])
            expected.append(2.0 * F.mse_loss(z[:columns][known[:columns]], then[row][known]))
    assert torch.allclose(found, torch.stack(expected), rtol=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), features)
    assert slope.isfinite().all()


def test_the_second_draw_is_another_one_and_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    t = ours(0.5, 0.5)
    t.add(Stream("a", batches(40), range(CLASSES)))
    t.fit(3)
    pairs = []
    recall = t._recall

    def watched(*given: Any) -> Any:
        data, edited = recall(*given)
        assert data.recalled is not None
        assert data.drawn is not None
        pairs.append((data.recalled.index.tolist(), data.drawn.index.tolist()))
        assert data.samples == BATCH + 2 * BATCH
        return data, edited

    monkeypatch.setattr(t, "_recall", watched)
    t.fit(30)
    overlaps = [len(set(a) & set(b)) for a, b in pairs]
    # hypergeometric: mean 4 * 4 / 7, variance 4 * (4/7) * (3/7) * (3/6); of 30 steps
    assert abs(sum(overlaps) - 30 * 16 / 7) < 5 * (30 * 4 * 4 / 7 * 3 / 7 * 3 / 6) ** 0.5
    assert len(set(overlaps)) > 1


@pytest.mark.parametrize("memory_tasks", ["one", "each"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_parts_of_a_step_add_up_to_the_whole(memory_tasks: Any, beta: float) -> None:
    """The loss of the memory of one step with two batches, worked off at once or one after the other."""
    runs = []
    for accumulate, size in ((1, 8), (2, 4)):
        t = ours(0.5, beta, memory_tasks=memory_tasks, accumulate=accumulate, memory_batch=size)
        for task, classes in (("a", [0, 1, 2]), ("b", [3, 4, 5])):
            x, y = blobs(classes, 160)
            t.add(Stream(task, list(zip(x.double().split(size), y.split(size), strict=True)), classes))
        t.memory = memory = ReservoirMemory(60, logits=True)
        t.loss_terms.observe = lambda *given: None  # type: ignore[method-assign]
        t.fit(6)
        runs.append((t.step(), memory))
    (whole, one), (parts, two) = runs
    assert whole is not None
    assert parts is not None
    assert whole.tasks == parts.tasks
    assert torch.equal(one.x, two.x)
    assert torch.allclose(one.logits, two.logits, rtol=1e-9, equal_nan=True)
    assert torch.allclose(whole.losses, parts.losses, rtol=1e-9)


# ---- with everything else


COMPANY: dict[str, Callable[[], dict[str, Any]]] = {
    "alone": dict,
    "mir": lambda: {"retrieval": MIR(9, lr=RATE)},
    "gmed": lambda: {"edit": BeforeUpdate(GMEDEdit(0.1))},
    "mir + gmed": lambda: {"retrieval": MIR(9, lr=RATE), "edit": BeforeUpdate(GMEDEdit(0.1), "others")},
    "each": lambda: {"memory_tasks": "each", "weighting": EMGD("gmc")},
    "accumulated": lambda: {"accumulate": 2, "memory_batch": 2},
    "lwf": lambda: {"more": LwF()},
}


def company(name: str, beta: float, setting: str) -> Trainer:
    arguments = COMPANY[name]()
    terms = [DER(0.5, beta), *([arguments.pop("more")] if "more" in arguments else [])]
    t = ours(0.5, beta, **{"memory": ReservoirMemory(20, logits=True), **arguments}, loss_terms=terms, setting=setting)
    for task, classes, start in (("a", [0, 1], 0), ("b", [2, 3, 4], 5)):
        x, y = blobs(classes, 48)
        t.add(Stream(task, list(zip(x.double().split(4), y.split(4), strict=True)), classes, start=start))
    return t


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("name", COMPANY)
def test_a_resumed_run_gives_the_same_bits(name: str, beta: float, setting: str, tmp_path: Path) -> None:
    whole = company(name, beta, setting)
    whole.fit()
    assert whole.memory is not None
    assert len(whole.memory) == 20
    for stop in (1, 7):
        first, second = (company(name, beta, setting) for _ in range(2))
        first.fit(stop)
        save_checkpoint(tmp_path / "c", first.state_dict())
        second.load_state_dict(load_checkpoint(tmp_path / "c"))
        second.fit()
        for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
            assert torch.equal(a, b)
        for column in ("x", "y", "task", "logits", "original"):
            one, two = (getattr(t.memory, column) for t in (whole, second))
            assert torch.equal(one.nan_to_num(9.0), two.nan_to_num(9.0))
        assert torch.equal(whole._retrieval.get_state(), second._retrieval.get_state())


def test_a_step_that_raises_changes_nothing() -> None:
    t = company("alone", 0.5, "task")
    t.fit(6)
    before = everything(t)
    with torch.no_grad():
        weight = next(t.model.heads[1].parameters())
        kept = weight.clone()
        weight.fill_(torch.inf)
    with pytest.raises(FloatingPointError):
        t.step()
    with torch.no_grad():
        weight.copy_(kept)
    after = everything(t)
    for state in (before, after):
        state["memory"]["logits"] = state["memory"]["logits"].nan_to_num(9.0)
    assert same(before, after)


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory": None}, "DER replays stored samples; pass a memory too"),
        ({"memory": ReservoirMemory(5)}, r"this ReservoirMemory keeps none; pass memory=ReservoirMemory\(n, logits"),
        ({"memory": ClassMemory(5)}, "this ClassMemory keeps none"),
        ({"loss_terms": [DER(), DER(0.5, 0.5)]}, "DER and DER both say how the memory is replayed"),
    ],
    ids=["no memory", "no logits", "class memory", "twice"],
)
def test_what_it_cannot_work_with_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours(0.5, 0.5, **arguments)


@pytest.mark.parametrize("given", [(0.0,), (-1.0,), (1.0, -0.1), (float("nan"),), (1.0, float("inf"))])
def test_factors_out_of_range_are_refused(given: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="DER: expected a finite"):
        DER(*given)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="'least' or 'ignored', got 'none'"):
        DER(unseen="none")  # type: ignore[arg-type]


def test_a_memory_of_logits_without_any_is_refused_before_it_changes() -> None:
    memory, x = ReservoirMemory(5, logits=True), torch.rand(3, 2)
    with pytest.raises(ValueError, match="none came with the batch"):
        memory.observe("a", x, torch.zeros(3, dtype=torch.int64), [0], generator(0))
    assert memory.seen == len(memory) == 0


def test_another_use_of_logits_is_another_composition() -> None:
    first = trainer(stream("a", [0, 1]), memory=ReservoirMemory(9, logits=True), weighting=Mean())
    first.fit(2)
    second = trainer(stream("a", [0, 1]), memory=ReservoirMemory(9), weighting=Mean())
    with pytest.raises(ValueError, match="another memory"):
        second.load_state_dict(first.state_dict())
