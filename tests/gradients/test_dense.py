"""A perceptron with linear heads without a graph, against autograd, and where autograd has to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pcl import DER, EWC, HAL, MIR, MLP, ContinualModel, GMEDEdit, LwF, Mean, ReservoirMemory, Stream, Sum, Trainer
from pcl.gradients.dense import DensePass, Replayed
from pcl.gradients.dense_gradients import DenseGradients, DenseLoss
from pcl.gradients.workspace import Workspace
from pcl.memory.course import moved
from pcl.memory.incoming import Incoming

ROWS = {"a": 6, "b": 6, "memory": 3}


def model(heads: int = 2, setting: Any = "class") -> ContinualModel:
    torch.manual_seed(0)
    made = ContinualModel(MLP(12, [9, 7]), 7, setting)
    for number in range(heads):
        made.add_task(f"task {number}", [2 * number, 2 * number + 1])
    return made


def batches(sizes: dict[str, int], columns: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    x = {task: torch.randn(n, 3, 4, generator=draws) for task, n in sizes.items()}
    return x, {task: torch.randint(columns, (n,), generator=draws) for task, n in sizes.items()}


def passed(of: ContinualModel, sizes: dict[str, int]) -> tuple[DensePass, list[Tensor]]:
    """The pass, and the losses that autograd differentiates."""
    x, y = batches(sizes, sum(len(head.weight) for head in of.heads))  # type: ignore[misc, arg-type]
    rows = torch.cat(list(x.values())), torch.cat(list(y.values()))
    run = DensePass(of.dense(), *rows, list(sizes.values()), list(sizes))  # type: ignore[arg-type]
    return run, [cross_entropy(of.logits(of.backbone(x[task]), "task 0"), y[task]) for task in sizes]


def gradient(losses: list[Tensor], weights: list[float], of: list[nn.Parameter]) -> tuple[Tensor, ...]:
    total = sum(weight * loss for weight, loss in zip(weights, losses, strict=True))
    return torch.autograd.grad(total, of, retain_graph=True)  # type: ignore[arg-type]


def close(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("over", ["backbone", "all"])
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("sizes", [{"a": 5}, {"a": 4, "b": 4}, ROWS], ids=["one task", "two alike", "three"])
@pytest.mark.parametrize("alike", [True, False])
def test_one_direction(over: str, heads: int, sizes: dict[str, int], alike: bool) -> None:
    of = model(heads)
    run, losses = passed(of, sizes)
    weights = [1.0] * len(sizes) if alike else [0.3 + i for i in range(len(sizes))]
    shared, own = of.shared_parameters(), of.head_parameters()
    ours = DenseLoss(run, [*shared, *own] if over == "all" else shared, [] if over == "all" else own)
    close(ours.losses, torch.stack(losses))
    close(run.logits, of.logits(of.backbone(torch.cat(list(batches(sizes, 2 * heads)[0].values()))), "task 0"))
    d = ours.combine(torch.tensor(weights, dtype=torch.float64))
    expected = gradient(losses, weights, [*shared, *own])
    close(d, expected if over == "all" else expected[: len(shared)])
    close(ours.own, [] if over == "all" else gradient(losses, [1.0] * len(sizes), own))


@pytest.mark.parametrize("over", ["backbone", "all"])
@pytest.mark.parametrize("width", [3, 300])  # gradients are stored for the first, kept as products for the other
def test_a_gradient_for_every_task(over: str, width: int) -> None:
    torch.manual_seed(0)
    of = ContinualModel(MLP(12, [width, 7]), 7, "class")
    of.add_task("task 0", range(4))
    run, losses = passed(of, ROWS)
    shared, own = of.shared_parameters(), of.head_parameters()
    shared, own = ([*shared, *own], []) if over == "all" else (shared, own)
    ours = DenseGradients(run, shared, own, Workspace())
    each = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in losses]
    for found, expected in zip(ours.each(), each, strict=True):
        close(found, expected)
    flat = torch.stack([torch.cat([g.flatten() for g in gradients]) for gradients in each]).double()
    close(ours.gramian(), flat @ flat.T)
    close(ours.combine([0.5, 2.0, -1.0]), gradient(losses, [0.5, 2.0, -1.0], shared))
    close(ours.own, gradient(losses, [1.0] * 3, own) if own else [])
    assert ours.descend(torch.tensor([0.5, 2.0, -1.0]), 0.1) == (width == 300)  # what is stored need not be found again


@pytest.mark.parametrize("over", ["backbone", "all"])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("kind", [DenseLoss, DenseGradients])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 2.0, -1.0]], ids=str)
def test_a_step_down_has_the_bits_of_an_update(kind: Any, heads: int, over: str, weights: list[float]) -> None:
    ends, lr = [], 0.1
    for at_once in (False, True):
        torch.manual_seed(0)
        of = ContinualModel(MLP(12, [300, 200]), 200, "class")
        for number in range(heads):
            of.add_task(f"task {number}", [2 * number, 2 * number + 1])
        run, _ = passed(of, ROWS)
        shared, own = of.shared_parameters(), of.head_parameters()
        shared, own = ([*shared, *own], []) if over == "all" else (shared, own)
        given = () if kind is DenseLoss else (Workspace(),)
        found, of_tasks = kind(run, shared, own, *given), torch.tensor(weights, dtype=torch.float64)
        for p in of.parameters():
            p.grad = torch.ones_like(p)  # of an earlier step
        if at_once:
            assert found.descend(of_tasks, lr)
            assert all(p.grad is None for p in of.parameters())
        else:
            d = found.combine(of_tasks)
            with torch.no_grad():
                for p, g in zip([*shared, *own], [*d, *found.own], strict=True):
                    p.add_(g, alpha=-lr)
        ends.append(torch.cat([p.detach().flatten() for p in of.parameters()]))
    assert torch.equal(*ends)


@pytest.mark.parametrize("what", ["frozen", "not finite"])
def test_no_step_down_where_none_can_be_made(what: str) -> None:
    of = model()
    if what == "frozen":
        of.heads[0].requires_grad_(False)
    run, _ = passed(of, ROWS)
    before = [p.detach().clone() for p in of.parameters()]
    weights = torch.full((3,), 1.0 if what == "frozen" else torch.inf, dtype=torch.float64)
    assert not DenseLoss(run, of.shared_parameters(), []).descend(weights, 0.1)
    assert all(map(torch.equal, before, of.parameters()))


def test_frozen_layers_are_left_out() -> None:
    of = model()
    of.backbone[1].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    of.heads[0].requires_grad_(False)
    run, losses = passed(of, ROWS)
    shared, own = of.shared_parameters(), [p for p in of.head_parameters() if p.requires_grad]
    ours = DenseLoss(run, shared, own)
    close(ours.combine(torch.tensor([1.0, 2.0, 3.0])), gradient(losses, [1.0, 2.0, 3.0], shared))
    close(ours.own, gradient(losses, [1.0] * 3, own))


def hooked(of: ContinualModel) -> None:
    of.backbone[1].register_forward_hook(lambda *_: None)  # type: ignore[index, operator, union-attr]


def replaced(of: ContinualModel) -> None:
    of.backbone[2] = nn.Tanh()  # type: ignore[index, operator]


def weighed(of: ContinualModel) -> None:
    torch.nn.utils.parametrizations.weight_norm(of.heads[0])


def without_bias(of: ContinualModel) -> None:
    of.heads[0].bias = None


def put_in_place(of: ContinualModel) -> None:
    of.backbone.forward = lambda x: x.flatten(1)[:, :7]


def tied(of: ContinualModel) -> None:
    of.heads[1].bias = of.heads[0].bias


def in_one_memory(of: ContinualModel) -> None:
    of.heads[1].weight.data = of.heads[0].weight.data  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [tied, in_one_memory, hooked, replaced, weighed, without_bias, put_in_place])
def test_what_is_not_as_made_takes_autograd(change: Callable[[ContinualModel], None]) -> None:
    of = model()
    assert of.dense() is not None
    change(of)
    assert of.dense() is None


@pytest.mark.parametrize(
    "of",
    [
        model(setting="task"),
        ContinualModel(MLP(4, []), 4, "class"),
        ContinualModel(nn.Sequential(*MLP(4, [3])), 3, "class"),
        ContinualModel(MLP(4, [3]), 3, "class", head="cosine"),
        ContinualModel(MLP(4, [3]), 3, "class", head="sigmoid"),
    ],
    ids=["a head for every task", "nothing hidden", "another module", "cosine", "sigmoid"],
)
def test_other_models_take_autograd(of: ContinualModel) -> None:
    assert of.dense() is None


def test_other_rows_take_autograd() -> None:
    of, y = model(), {"task 0": torch.zeros(2, dtype=torch.int64)}
    assert DensePass.of(of, of.dense(), {"task 0": torch.zeros(2, 12)}, y) is not None
    for x in (torch.zeros(2, 12, dtype=torch.float64), torch.zeros(0, 12), torch.zeros(2, 12, device="meta")):
        assert DensePass.of(of, of.dense(), {"task 0": x}, y) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert DensePass.of(of, of.dense(), {"task 0": torch.zeros(2, 12)}, y) is None


def test_the_gradient_of_what_comes_in() -> None:
    of = model()
    x, y = batches({"task 0": 5, "task 1": 3}, 4)
    several = Incoming(of, {task: [(x[task][:2], y[task][:2]), (x[task][2:], y[task][2:])] for task in x})  # autograd
    close(Incoming(of, {task: [(x[task], y[task])] for task in x}).gradient, several.gradient)


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


def test_where_a_step_ahead_leads() -> None:
    of = model()
    x, y = batches({"task 0": 6, "task 1": 3}, 4)
    ahead = Incoming(of, {task: [(x[task], y[task])] for task in x})
    parameters = list(of.parameters())
    there = ahead.gradient.reached(parameters, 0.1)
    before = [p.detach().clone() for p in parameters]
    with moved(parameters, ahead.gradient, 0.1):
        along = list(ahead.gradient)  # looked at for the first time, and of where the model stood all the same
        assert all(torch.equal(p, t) for p, t in zip(parameters, there, strict=True) if t is not None)
    assert all(map(torch.equal, before, parameters))
    close(there, [p - 0.1 * u for p, u in zip(before, along, strict=True)])
    close(along, gradient([of.losses(x[t], y[t], t).mean() for t in x], [0.5, 0.5], parameters))


def test_a_step_ahead_is_looked_at_before_the_step() -> None:
    of = model()
    x, y = batches({"task 0": 6}, 4)
    ahead, looked_at = (Incoming(of, {"task 0": [(x["task 0"], y["task 0"])]}).gradient for _ in range(2))
    before = list(looked_at)
    with torch.no_grad():
        for p in of.parameters():
            p.add_(1.0)
    with pytest.raises(RuntimeError, match="before the step is made"):
        list(ahead)
    with pytest.raises(RuntimeError, match="before the step is made"):
        ahead.reached(list(of.parameters()), 0.1)
    close(list(looked_at), before)


@pytest.mark.parametrize("count", [None, 2])
def test_cross_entropy_that_is_left_out_may_be_infinite(count: int | None) -> None:
    of = model(1)
    head = cast(nn.Linear, of.heads[0])
    with torch.no_grad():
        head.bias[:2] = torch.tensor([3e38, -3e38])
    x, y = batches({"a": 5}, 1)
    assert DensePass(of.dense(), x["a"], y["a"] + 1, [5], ["a"]).losses.isinf().all()  # type: ignore[arg-type]
    run = DensePass(of.dense(), x["a"], y["a"] + 1, [5], ["a"], {"a": Replayed(0.0, count)})  # type: ignore[arg-type]
    run.replay("a", lambda features, logits: (torch.tensor(1.0), torch.zeros_like(logits)))
    assert run.losses.tolist() == [1.0]
    found = run.backward(None, wanted={id(head.weight)}, weighted_heads=True).weights[-1]
    assert found is not None
    assert not found.any()


def test_a_frozen_bias_is_not_in_the_gramian() -> None:
    torch.manual_seed(0)
    of = ContinualModel(MLP(12, [300, 7]), 7, "class")
    of.add_task("task 0", range(4))
    of.backbone[1].bias.requires_grad_(False)  # type: ignore[index, union-attr]
    of.backbone.register_parameter("another", nn.Parameter(torch.ones(2)))
    run, losses = passed(of, ROWS)
    ours = DenseGradients(run, of.shared_parameters(), of.head_parameters(), Workspace())
    named = [p for name, p in of.backbone.named_parameters() if p.requires_grad and name != "another"]
    flat = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(loss, named, retain_graph=True)]) for loss in losses]
    ).double()
    close(ours.gramian(), flat @ flat.T)


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


def test_a_step_ahead_that_is_not_finite_is_one_of_the_gradient() -> None:
    of = model()
    x, y = torch.full((2, 12), torch.nan), torch.tensor([0, 1])
    found = Incoming(of, {"task 0": [(x, y)]}).gradient.reached(list(of.parameters()), 0.1)
    assert not all(t.isfinite().all() for t in found if t is not None)
