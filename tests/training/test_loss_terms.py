"""Loss terms in the loop: what a step makes of them, ends in parallel timelines, resuming, refusals, replaying."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import blobs, everything, same, stream, trainer

from pcl import (
    EMGD,
    EWC,
    FAMO,
    MAS,
    MEMORY,
    MGDA,
    MLP,
    SI,
    ClassMemory,
    ContinualModel,
    LossTerm,
    LwF,
    Mean,
    OnlineEWC,
    Samples,
    Stream,
    Trainer,
    TrimmedMean,
    Uncertainty,
    memory_of,
)
from pcl.gradients.result import Gradient
from pcl.losses.base import Unobserving
from pcl.training.cuda_graph import GraphedStep, check_capturable
from pcl.training.guard import Later

TERMS: dict[str, Callable[[], list[LossTerm]]] = {
    "ewc": lambda: [EWC(5.0, samples=9)],
    "ewc of heads too": lambda: [EWC(5.0, fisher="empirical", samples=30, protect="all")],
    "online ewc": lambda: [OnlineEWC(5.0, samples=9)],
    "si": lambda: [SI(1.0)],
    "si of heads too": lambda: [SI(1.0, protect="all")],
    "mas": lambda: [MAS(0.1, samples=9)],
    "lwf": lambda: [LwF()],
    "several": lambda: [LwF(0.5), SI(0.5), EWC(1.0, samples=5)],
}


class Stateless(Unobserving):
    """What the terms of these tests do not need."""

    capturable = True

    def settings(self) -> dict[str, Any]:
        return {}

    def task_ended(self, model: ContinualModel, task: str) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        pass


class Pull(Stateless):
    """1/2 |theta - 1|^2 of all but the biases."""

    def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
        return [p.detach() - 1 if "weight" in name else None for name, p in parameters.items()]

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        return sum(0.5 * (p - 1).square().sum() for name, p in parameters.items() if "weight" in name)  # type: ignore[return-value]


def overlapping(**arguments: Any) -> Trainer:
    """Tasks a, b, c; a ends while b is in training, b while c is. Adam, so that updates are not along gradients."""
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.Adam(p, lr=0.02), "memory_batch": 5}
    return trainer(
        stream("a", [0, 1], 36), stream("b", [2, 3], 60, start=4), stream("c", [1, 4], 48, start=14),
        **{**given, **arguments},
    )  # fmt: skip


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


# ---- state


@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("terms", TERMS)
def test_a_resumed_run_gives_the_same_bits(terms: str, setting: str) -> None:
    whole = overlapping(loss_terms=TERMS[terms](), setting=setting)
    whole.fit()
    for stop in (0, 3, 9, 12, 20, 25):
        first, second = (overlapping(loss_terms=TERMS[terms](), setting=setting) for _ in range(2))
        first.fit(stop)
        with torch.no_grad():
            for p in second.model.parameters():
                p.zero_()  # all must come from the checkpoint
        second.load_state_dict(everything(first))
        assert same(everything(first), everything(second))
        second.fit()
        assert same(everything(whole), everything(second)), stop


@pytest.mark.parametrize(
    "other", [[], [EWC(2.0, samples=9)], [EWC(5.0, samples=8)], [OnlineEWC(5.0, samples=9)], [SI(1.0)]], ids=str
)
def test_other_terms_are_refused(other: list[LossTerm]) -> None:
    first, second = overlapping(loss_terms=[EWC(5.0, samples=9)]), overlapping(loss_terms=other)
    first.fit(10)
    before = everything(second)
    with pytest.raises(ValueError, match="another loss terms"):
        second.load_state_dict(first.state_dict())
    assert same(before, everything(second))


@pytest.mark.parametrize("given", ["ewc", EWC, Mean()])
def test_what_is_no_term_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"expected loss terms, such as pcl.EWC\(100.0\)"):
        trainer(loss_terms=[given])


@pytest.mark.parametrize("terms", TERMS)
def test_pausing_changes_nothing_of_a_term(terms: str) -> None:
    t = overlapping(loss_terms=TERMS[terms]())
    t.fit(6)
    before = copy.deepcopy(t.loss_terms.state_dict())
    for s in t.streams.values():
        s.pause()
    assert t.step() is None
    assert same(before, t.loss_terms.state_dict())


class Moody(nn.Module):
    """Finite, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mood = MLP(6, [8]), 1.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) * self.mood
        return out


def moody(terms: str) -> tuple[Trainer, Moody]:
    torch.manual_seed(0)
    backbone = Moody()
    t = Trainer(
        ContinualModel(backbone, 8), optimizer=lambda p: torch.optim.Adam(p, lr=0.02), memory=ClassMemory(2),
        loss_terms=TERMS[terms](),
    )  # fmt: skip
    for task, classes, n in (("a", [0, 1], 20), ("b", [2, 3], 160)):
        t.add(stream(task, classes, n))
    t.fit(8)
    return t, backbone


@pytest.mark.parametrize("terms", TERMS)
def test_a_step_that_raises_changes_nothing(terms: str) -> None:
    t, backbone = moody(terms)
    before = everything(t)
    backbone.mood = torch.inf
    with pytest.raises(FloatingPointError):
        t.step()
    assert same(before, everything(t))


@pytest.mark.parametrize("terms", TERMS)
def test_a_bad_step_on_a_gpu_moves_no_spring(terms: str) -> None:
    """What its guard does, on the CPU; samples that went by have been seen."""
    t, backbone = moody(terms)
    t._guard = Later(torch.device("cpu"))
    t.step()
    state = copy.deepcopy(t.loss_terms.state_dict())
    parameters = [p.detach().clone() for p in t.model.parameters()]
    backbone.mood = torch.inf
    t.step()
    backbone.mood = 1.0
    with pytest.raises(FloatingPointError, match="is not finite"):
        t.fit(2)
    assert same(parameters, [p.detach() for p in t.model.parameters()])
    for then, now in zip(state, t.loss_terms.state_dict(), strict=True):
        assert same({**then, "samples": None}, {**now, "samples": None})


def test_an_update_that_a_penalty_makes_infinite_is_refused() -> None:
    class Burst(Pull):
        def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
            return [torch.full_like(p, torch.inf) for p in parameters.values()]

    t = trainer(stream("a", [0, 1]), loss_terms=[Burst()])
    before = dict(copy.deepcopy(t.model.state_dict()))
    with pytest.raises(FloatingPointError, match="combined gradient"):
        t.step()
    assert same(before, {name: value for name, value in t.model.state_dict().items() if name in before})


# ---- CUDA graphs


@pytest.mark.parametrize("terms", TERMS)
def test_replayed_steps_are_the_plain_ones(terms: str) -> None:
    plain, other = (overlapping(loss_terms=TERMS[terms]()) for _ in range(2))
    captures: list[int] = []
    other._graph = GraphedStep(other, lambda function: captures.append(1) or function)  # type: ignore[func-returns-value]
    plain.fit()
    other.fit()
    assert len(captures) >= 4
    assert same(everything(plain), everything(other))


@pytest.mark.parametrize("terms", [name for name in TERMS if name != "ewc of heads too"])
def test_what_a_graph_touches_stays_where_it_is_until_a_task_ends(terms: str) -> None:
    """In the steps between, a replay would find every tensor of the state, but for the samples, at its address."""

    def addresses(state: Any) -> list[int]:
        if isinstance(state, Tensor):
            return [state.data_ptr()]
        if isinstance(state, dict):
            return [a for key, value in state.items() if key != "samples" for a in addresses(value)]
        return [a for value in state for a in addresses(value)] if isinstance(state, list) else []

    t = overlapping(loss_terms=TERMS[terms]())
    t.fit(11)
    before = addresses(t.loss_terms.state_dict())
    assert before
    t.fit(2)
    assert t.ended_at == {"a": 8}
    assert before == addresses(t.loss_terms.state_dict())


def test_a_term_that_cannot_be_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnTheHost(Pull):
        capturable = False

    t = trainer(loss_terms=[EWC(1.0), OnTheHost()])
    monkeypatch.setattr(Trainer, "device", torch.device("cuda"))
    with pytest.raises(ValueError, match="cannot capture the loss term OnTheHost"):
        check_capturable(t)
