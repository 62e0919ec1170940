"""A perceptron with linear heads without a graph, against autograd, and where autograd has to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import nn

from pcl import MLP, ContinualModel
from pcl.gradients.dense import DensePass, Replayed
from pcl.gradients.dense_gradients import DenseGradients, DenseLoss
from pcl.gradients.workspace import Workspace
from pcl.memory.course import moved
from pcl.memory.incoming import Incoming
from tests.gradients.dense_cases import ROWS, batches, close, gradient, hooked, model, passed


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


def test_a_step_ahead_that_is_not_finite_is_one_of_the_gradient() -> None:
    of = model()
    x, y = torch.full((2, 12), torch.nan), torch.tensor([0, 1])
    found = Incoming(of, {"task 0": [(x, y)]}).gradient.reached(list(of.parameters()), 0.1)
    assert not all(t.isfinite().all() for t in found if t is not None)
