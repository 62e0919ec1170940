"""Loss terms in the loop: what a step makes of them, and what ends in parallel timelines mean to them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from loss_term_cases import TERMS, Pull, Stateless, overlapping
from torch import Tensor
from torch.nn import functional as F
from training_cases import blobs, stream, trainer

from pcl import (
    EMGD,
    EWC,
    FAMO,
    MAS,
    MEMORY,
    MGDA,
    MLP,
    SI,
    ContinualModel,
    LossTerm,
    LwF,
    Mean,
    Samples,
    Stream,
    Trainer,
    TrimmedMean,
    Uncertainty,
    memory_of,
)

# ---- penalties


@pytest.mark.parametrize("gradients_over", ["backbone", "all"])
@pytest.mark.parametrize("strategy", ["loop", "segment", "lowmem"])
@pytest.mark.parametrize("weighting", [Mean, MGDA, lambda: EMGD("gmc"), Uncertainty, TrimmedMean])
def test_a_penalty_joins_the_direction_and_nothing_else(weighting: Any, strategy: Any, gradients_over: str) -> None:
    if strategy == "lowmem" and weighting is TrimmedMean:
        pytest.skip("lowmem holds no gradients")
    rate, runs = 0.05, []
    for terms in ([], [Pull()], [Pull(), Pull()]):
        t = trainer(
            stream("a", [0, 1]), stream("b", [2, 3]), weighting=weighting(), strategy=strategy, loss_terms=terms,
            gradients_over=gradients_over, optimizer=lambda p: torch.optim.SGD(p, lr=rate),
        )  # fmt: skip
        for task, s in t.streams.items():
            parameters = t.model.add_task(task, s.classes)
            t.optimizer.add_param_group({"params": parameters})
        before = {name: p.detach().clone() for name, p in t.model.named_parameters()}
        result = t.step()
        assert result is not None
        runs.append((result, dict(t.model.named_parameters())))
    (plain, without), *others = runs
    for count, (result, parameters) in enumerate(others, start=1):
        assert torch.equal(plain.losses, result.losses)
        assert torch.equal(plain.weights, result.weights)
        assert plain.gram is None or torch.equal(plain.gram, result.gram)
        for name, p in parameters.items():
            force = (before[name] - 1) * ("weight" in name) * count
            assert torch.allclose(p, without[name] - rate * force, rtol=1e-5, atol=1e-6)


def test_with_weights_of_sum_1_it_is_part_of_every_tasks_loss() -> None:
    t = trainer(
        stream("a", [0, 1]), stream("b", [2, 3]), weighting=Mean(), gradients_over="all", loss_terms=[Pull()], clip=0.1,
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
    )  # fmt: skip
    for task, s in t.streams.items():
        t.optimizer.add_param_group({"params": t.model.add_task(task, s.classes)})
    named = dict(t.model.named_parameters())
    losses = []
    for task, s in t.streams.items():
        batch = s.peek()
        assert batch is not None
        losses.append(t.model.losses(*batch, task).mean() + Pull().value(named))
    slopes = torch.autograd.grad(torch.stack(losses).mean(), list(named.values()))
    before = [p.detach().clone() for p in named.values()]
    t.step()
    length = torch.stack([slope.norm() for slope in slopes]).norm()  # what is clipped is the whole gradient
    for then, now, slope in zip(before, named.values(), slopes, strict=True):
        assert torch.allclose(now, then - slope * (0.1 / length), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["ewc", "online ewc", "si", "mas"])
def test_springs_rest_where_a_task_ended_while_others_trained(kind: str) -> None:
    t = overlapping(loss_terms=TERMS[kind]())
    (term,) = t.loss_terms
    t.fit(9)
    assert "a" not in t.ended_at
    assert not any(f is not None and f.any() for f in term.gradient(dict(t.model.named_parameters())))  # type: ignore[attr-defined]
    at_end = {name: p.detach().clone() for name, p in t.model.named_parameters()}
    t.fit(3)
    assert t.ended_at == {"a": 8}
    springs = term.springs  # type: ignore[attr-defined]
    for name, p in t.model.named_parameters():
        assert (name in springs) == name.startswith("backbone.")
        if name in springs:
            assert torch.equal(springs[name].rest, at_end[name])
            assert springs[name].stiffness.any()
            assert not torch.equal(p, at_end[name])
    while "b" not in t.ended_at:
        t.step()
    if kind != "ewc":  # which holds on to both ends
        assert all(not torch.equal(springs[name].rest, at_end[name]) for name in at_end if name in springs)


def test_synaptic_intelligence_follows_the_data_and_the_updates() -> None:
    """Path by path: the gradient of the batch without penalty times the update that Adam made of all of it."""
    t = trainer(
        stream("a", [0, 1], 40), stream("b", [2, 3], 40, start=10), memory=None, loss_terms=[SI(5.0)], clip=0.5,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
    )  # fmt: skip
    (term,) = t.loss_terms
    path = [torch.zeros_like(p) for p in t.model.backbone.parameters()]
    for step in range(19):
        task = "a" if step < 10 else "b"
        batch = t.streams[task].peek()
        assert batch is not None
        if task not in t.model.tasks and step:  # the path ends
            assert all(p.any() for p in path)
            path = [torch.zeros_like(p) for p in path]
        twin = copy.deepcopy(t.model)
        if task not in twin.tasks:
            twin.add_task(task, t.streams[task].classes)
        slopes = torch.autograd.grad(twin.losses(*batch, task).mean(), list(twin.backbone.parameters()))
        t.step()
        for total, slope, then, now in zip(
            path, slopes, twin.backbone.parameters(), t.model.backbone.parameters(), strict=True
        ):
            total -= slope * (now - then).detach()
        found = term.state_dict()["path"]
        for total, (name, _) in zip(path, t.model.backbone.named_parameters(), strict=True):
            assert torch.allclose(found[f"backbone.{name}"], total, rtol=1e-4, atol=1e-7)
    assert t.ended_at == {"a": 9}


def test_what_no_loss_reaches_rests() -> None:
    """The head of a finished task, whose momentum would move it as soon as it had a gradient."""
    t = trainer(
        stream("a", [0, 1]), stream("b", [2, 3], start=6), memory=None, loss_terms=[EWC(5.0, protect="all")],
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
    )  # fmt: skip
    t.fit(6)
    head = t.model.heads[0].weight.detach().clone()  # type: ignore[union-attr, operator]
    t.fit()
    assert torch.equal(head, t.model.heads[0].weight)  # type: ignore[arg-type]


def test_samples_are_kept_in_the_first_epoch_alone() -> None:
    t = trainer(stream("a", [0, 1], 24, epochs=3), loss_terms=[EWC(1.0, samples=5)])
    t.fit(14)
    (state,) = t.loss_terms.state_dict()
    assert state["samples"]["seen"] == {"a": 24}


# ---- terms of samples


@pytest.mark.parametrize("memory_tasks", ["one", "each"])
@pytest.mark.parametrize("gradients_over", ["backbone", "all"])
@pytest.mark.parametrize("strategy", ["loop", "segment", "lowmem"])
@pytest.mark.parametrize("setting", ["task", "class"])
def test_distillation_is_part_of_losses_and_gramian(
    setting: str, strategy: str, gradients_over: str, memory_tasks: str
) -> None:
    t = overlapping(
        setting=setting, strategy=strategy, gradients_over=gradients_over, memory_tasks=memory_tasks,
        loss_terms=[LwF(0.7)], weighting=MGDA(),
    )  # fmt: skip
    t.fit(10)
    teacher = copy.deepcopy(t.model)
    t.streams["a"].end()
    t.fit(6)
    assert t.ended_at == {"a": 8}
    (state,) = t.loss_terms.state_dict()
    assert state["finished"] == ["a"]
    teacher.load_state_dict(state["teacher"])
    others = [] if gradients_over == "backbone" else t.model.head_parameters()
    parameters = [*t.model.shared_parameters(), *others]
    rows, losses = [], []
    for task in ("b", "c"):
        batch = t.streams[task].peek()
        assert batch is not None
        x, y = batch
        columns = t.model.columns(task)
        loss = F.cross_entropy(t.model(x, task), torch.tensor([columns.index(int(c)) for c in y]), reduction="none")
        old = range(2)  # the head, or the columns, of task a
        then, now = (model(x, "a")[:, old] / 2 for model in (teacher, t.model))
        loss = (loss - 0.7 * (then.softmax(1) * now.log_softmax(1)).sum(1)).mean()
        losses.append(loss.detach())
        slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        rows.append(
            torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, slopes, strict=True)]
            )
        )
    result = t.step()
    assert result is not None
    assert result.gram is not None
    assert result.tasks == ("b", "c", {"one": MEMORY, "each": memory_of("a")}[memory_tasks])
    assert torch.allclose(result.losses[:2], torch.stack(losses), rtol=1e-5)
    expected = torch.stack(rows).double() @ torch.stack(rows).double().T
    assert torch.allclose(result.gram[:2, :2], expected, rtol=1e-4, atol=1e-5 * expected.diagonal().max().item())


ALL_SAMPLES: dict[str, Callable[[], LossTerm]] = {
    "ewc": lambda: EWC(5.0, fisher="empirical", samples=30),
    "si": lambda: SI(1.0),
    "mas": lambda: MAS(0.1, samples=30),
    "lwf": lambda: LwF(),
}


@pytest.mark.parametrize("name", ALL_SAMPLES)
def test_accumulated_batches_are_one_large_batch(name: str) -> None:
    found = []
    for size, accumulate, terms in ((8, 1, True), (2, 4, True), (8, 1, False)):
        torch.manual_seed(0)
        t = Trainer(
            ContinualModel(MLP(6, [16, 8]).double(), 8), optimizer=lambda p: torch.optim.SGD(p, lr=0.5),
            accumulate=accumulate, loss_terms=[ALL_SAMPLES[name]()] if terms else [],
        )  # fmt: skip
        for task, classes, start in (("a", [0, 1], 0), ("b", [2, 3], 3)):
            x, y = blobs(classes, 24)
            t.add(Stream(task, list(zip(x.double().split(size), y.split(size), strict=True)), classes, start=start))
        t.fit()
        found.append(torch.cat([p.detach().flatten() for p in t.model.backbone.parameters()]))
    whole, parts, without = found
    assert torch.allclose(whole, parts, rtol=1e-9, atol=1e-12)
    assert (whole - without).norm() > 1e-7 * whole.norm()  # a hundred times what would pass above


class Watch(Stateless):
    """Sees what a term of samples is shown; adds one to the loss of every sample of the memory."""

    def __init__(self) -> None:
        self.seen: list[Samples] = []

    def losses(self, samples: Samples) -> Tensor | None:
        self.seen.append(samples)
        return None if samples.recalled is None else torch.ones_like(samples.features[:, 0])


@pytest.mark.parametrize("memory_tasks", ["one", "each"])
def test_terms_see_the_rows_that_were_recalled(memory_tasks: str) -> None:
    watch, plain = Watch(), []
    runs = [overlapping(memory_tasks=memory_tasks, accumulate=2, strategy="loop", loss_terms=w) for w in ([], [watch])]
    for t in runs:
        t.fit(10)
    watch.seen.clear()
    before, after = (t.step() for t in runs)
    assert before is not None
    assert after is not None
    assert before.tasks == after.tasks == ("b", {"one": MEMORY, "each": memory_of("a")}[memory_tasks])
    assert torch.allclose(after.losses - before.losses, torch.tensor([0.0, 1.0]), atol=1e-6)
    memory = runs[1].memory
    assert memory is not None
    for samples in watch.seen:
        assert len(samples.x) == len(samples.y) == len(samples.features)
        if samples.recalled is None:
            plain.append(samples.task)
            continue
        recalled = samples.recalled
        assert samples.x is recalled.x
        assert torch.equal(memory.x[recalled.index], recalled.x)
        assert torch.equal(memory.y[recalled.index], samples.y)
        assert torch.equal(memory.task[recalled.index], recalled.task)
        assert recalled.sizes is None
    assert plain == ["b", "b"]
    rows = torch.cat([s.recalled.index for s in watch.seen if s.recalled is not None])
    assert len(rows) == len(rows.unique()) == 6  # all that is stored of task a, in parts
    assert len(watch.seen) == 4


@pytest.mark.parametrize("setting", ["task", "class"])
def test_distillation_in_bfloat16(setting: str) -> None:
    """The same losses up to the 8 bits of what the layers compute; the distributions are compared in full precision."""
    results = []
    for precision in ("full", "bf16"):
        t = overlapping(
            setting=setting, precision=precision, loss_terms=[LwF()], optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
        )
        t.fit(10)
        results.append(t.step())
    full, low = results
    assert full is not None
    assert low is not None
    assert low.losses.dtype == torch.float32
    assert torch.allclose(low.losses, full.losses, rtol=0.02)


@pytest.mark.parametrize("weighting", [Mean, FAMO])
def test_losses_after_the_update_hold_the_terms_too(weighting: Any) -> None:
    t = overlapping(
        weighting=weighting(), measure_descent=1, loss_terms=[LwF()], optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    t.fit(12)
    result = t.step()
    assert result is not None
    assert result.fall is not None
    assert torch.allclose(result.fall, torch.zeros(2), atol=1e-6)
