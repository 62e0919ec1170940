"""Whole growth phases."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl import MLP, Budget, Firefly, GrowingModel, ResidualLayer, WidthGraph
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.rebuild import rebuild
from tests.models.growth_nets import NETS, flat, made, squared_error

Batch = tuple[Tensor, Tensor]


def state(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def unchanged(net: nn.Module, before: dict[str, Tensor]) -> bool:
    after = net.state_dict()
    return list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


def trained(net: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer, rounds: int) -> nn.Module:
    for _ in range(rounds):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net


def objective(f: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    return F.cross_entropy(f(batch[0]), batch[1])


@pytest.fixture(scope="module")
def rings() -> list[Batch]:
    """Points in the plane, whose class is one of four rings: too much for three neurons."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(512, 2, generator=draws)
    y = torch.bucketize(x.norm(dim=1), torch.tensor([0.7, 1.2, 1.7]))
    return list(zip(x.split(128), y.split(128), strict=True))


@pytest.fixture(scope="module")
def small(rings: list[Batch]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network that has learned what it can."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    return trained(net, rings, optimizer, 150), optimizer


def again(small: tuple[nn.Module, torch.optim.Optimizer]) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of both that belongs together."""
    net, optimizer = copy.deepcopy(small)
    mine = torch.optim.Adam(net.parameters(), lr=0.02)
    mine.load_state_dict(optimizer.state_dict())
    return net, mine


def mean_loss(net: nn.Module, batches: list[Batch]) -> float:
    with torch.no_grad():
        return float(torch.stack([objective(net, batch) for batch in batches]).mean())


@pytest.mark.parametrize("name", NETS)
def test_every_network_grows_and_trains_on(name: str) -> None:
    net, x = made(name)
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    squared_error(net, x).backward()
    optimizer.step()
    firefly = Firefly(new=4, layers=3, steps=2)
    growth = firefly.grow(net, [x], squared_error, Budget(neurons=6), optimizer=optimizer)
    assert growth.neurons == 6
    assert growth.parameters > 0
    assert growth.loss_after < growth.loss_before
    assert all(module.training for module in net.modules())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in net.parameters()}
    assert all(p.grad is None for p in net.parameters() if growth.search.plan and p not in optimizer.state)
    found = WidthGraph(net, x)
    assert {n: found.groups[n].width for n in growth.after} == growth.after
    optimizer.zero_grad()
    squared_error(net, x).backward()
    optimizer.step()


def test_lowers_the_loss_more_than_random_splits(small: Any, rings: list[Batch]) -> None:
    """Of the same three neurons, after the same further training; and at once as much as it predicts."""
    net, optimizer = again(small)
    firefly = Firefly(new=8, steps=40, score_batches=4)
    growth = firefly.grow(net, rings, objective, Budget(neurons=3), optimizer=optimizer)
    fall = growth.loss_before - growth.loss_after
    assert growth.neurons == 3
    assert growth.search.predicted / 2 < fall < growth.search.predicted * 2
    ours = mean_loss(trained(net, rings, optimizer, 60), rings)
    others = []
    for seed in range(5):
        net, optimizer = again(small)
        draws = torch.Generator().manual_seed(seed)
        layer: Any = net[0]  # type: ignore[index]
        delta = 0.1 * torch.randn(3, 2, generator=draws) / 2**0.5
        plan = GroupGrowth(torch.arange(3))
        plan.rows_plus = {"0": (layer.weight.detach() + delta, layer.bias.detach())}
        plan.rows_minus = {"0": (layer.weight.detach() - delta, layer.bias.detach())}
        rebuild(net, WidthGraph(net, rings[0][0]).groups, {"0": plan}, optimizer)
        others.append(mean_loss(trained(net, rings, optimizer, 60), rings))
    assert ours < min(others)


def test_many_copies_together_lower_the_loss_too() -> None:
    """Trained together they overshoot, and many scores bid them turn around; those that do raise the loss together."""
    torch.manual_seed(0)
    model = GrowingModel(MLP(100, [100, 100]).double(), 100, torch.zeros(1, 100, dtype=torch.float64)).eval()
    model.add_task("a", [0, 1])
    model.task_ended("a")
    model.add_task("b", [2, 3])
    x = torch.rand(256, 100, dtype=torch.float64)
    y = 2 + (x[:, :50].sum(1) > x[:, 50:].sum(1)).long()
    samples = {"b": list(zip(x.split(64), y.split(64), strict=True))}
    with torch.no_grad():
        before = model.losses(x, y, "b").mean()
        found = model.grow(Firefly(new=4, steps=5, lr=0.1), samples, Budget(neurons=60))
        fall = float(before - model.losses(x, y, "b").mean())
    assert sum(growth.gained() for growth in found.plan.values()) == 60
    assert found.predicted / 4 < fall < found.predicted * 4


def test_a_plan_by_hand_widens_as_net2net_does(small: Any, rings: list[Batch]) -> None:
    """Copies that share outgoing weights are splits in no direction: the function stays, exactly."""
    net, _ = again(small)
    x = rings[0][0]
    expected = net(x)
    rebuild(net, WidthGraph(net, x).groups, {"0": GroupGrowth(torch.tensor([2, 0]))})
    layer: Any = net[0]  # type: ignore[index]
    assert torch.equal(layer.weight[3:], layer.weight[[2, 0]])
    torch.testing.assert_close(net(x), expected)


def test_the_same_seed_gives_the_same_bits(small: Any, rings: list[Batch]) -> None:
    found = []
    for seed in (3, 3, 4):
        net, optimizer = again(small)
        torch.manual_seed(len(found))  # of no effect
        firefly = Firefly(steps=5, layers=4, seed=seed)
        firefly.grow(net, rings, objective, Budget(neurons=6), optimizer=optimizer)
        firefly.grow(net, rings, objective, Budget(neurons=2), optimizer=optimizer)
        found.append((state(net), optimizer.state_dict()["state"]))
    assert unchanged_state(found[0], found[1])
    assert not unchanged_state(found[0], found[2])


def unchanged_state(a: Any, b: Any) -> bool:
    same = list(a[0]) == list(b[0]) and all(
        torch.equal(a[0][k], b[0][k]) for k in a[0] if a[0][k].shape == b[0][k].shape
    )
    return same and all(torch.equal(a[1][p][k], b[1][p][k]) for p in a[1] for k in a[1][p])


@pytest.mark.parametrize(
    "budget", [Budget(parameters=40), Budget(flops=60), Budget(neurons=9, parameters=30, flops=99)]
)
def test_budgets_are_kept(small: Any, rings: list[Batch], budget: Budget) -> None:
    net, _ = again(small)
    before = sum(p.numel() for p in net.parameters())
    growth = Firefly(steps=2).grow(net, rings, objective, budget)
    added = sum(p.numel() for p in net.parameters()) - before
    assert added == growth.parameters > 0
    assert added <= (budget.parameters or added)
    assert growth.flops <= (budget.flops or growth.flops)
    assert growth.neurons <= (budget.neurons or growth.neurons)


def test_only_named_groups_grow() -> None:
    net, x = made("mlp")
    growth = Firefly(steps=2).grow(net, [x], squared_error, Budget(neurons=4), groups=["2"])
    assert {n: growth.after[n] - growth.before[n] for n in growth.after} == {"0": 0, "2": 4}


def test_layers_grow_within_their_budget_and_leave_no_trace_else() -> None:
    net, x = made("mlp")
    before = state(net)
    names = [name for name, _ in net.named_modules()]
    firefly = Firefly(new=0, split=False, layers=4, steps=5)
    growth = firefly.grow(net, [x], squared_error, Budget(layers=0))
    assert growth.layers == ()
    assert [name for name, _ in net.named_modules()] == names
    assert unchanged(net, before)
    growth = firefly.grow(net, [x], squared_error, Budget(layers=1))
    (name,) = growth.layers
    layer = net.get_submodule(name)
    assert isinstance(layer, ResidualLayer)
    assert type(layer.activation) is type(net.get_submodule(name.removesuffix("1") + "0"))
    assert growth.after[f"{name}.inner"] >= 2
    assert growth.loss_after < growth.loss_before
    assert set(before) < set(net.state_dict())  # names stay
    assert not any(module.training for module in net.modules())


def test_a_residual_layer_of_ones_own_grows_without_offers() -> None:
    net, x = made("residual_images")
    growth = Firefly(steps=3).grow(net, [x], squared_error, Budget(neurons=40))
    assert growth.before["1.inner"] == 0
    assert growth.after["1.inner"] >= 2


class Unknown(torch.optim.SGD):
    """Remembers something by a name that nobody knows."""

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            self.state[p]["mystery"] = torch.zeros_like(p)
        return super().step(closure)


def test_what_is_refused_changes_nothing() -> None:
    net, x = made("mlp")
    net.train()
    before, names = state(net), [name for name, _ in net.named_modules()]
    draws = torch.get_rng_state()
    firefly, budget = Firefly(steps=2, layers=2), Budget(neurons=9)
    optimizer = Unknown(net.parameters(), lr=0.0)
    squared_error(net, x).backward()
    optimizer.step()
    listed = [*optimizer.param_groups[0]["params"]]
    cases: list[tuple[str, Callable[[], object]]] = [
        ("batches: there is none", lambda: firefly.grow(net, [], squared_error, budget)),
        ("expected a scalar tensor", lambda: firefly.grow(net, [x], lambda f, b: flat(f(b)), budget)),
        ("does not call the network", lambda: firefly.grow(net, [x], lambda f, b: b.sum(), budget)),
        ("no group is called 'x'", lambda: firefly.grow(net, [x], squared_error, budget, groups=["x"])),
        ("the width of '4' is fixed", lambda: firefly.grow(net, [x], squared_error, budget, groups=["4"])),
        (
            "there is no candidate.*'4': it is an output",
            lambda: Firefly().grow(net, [x], squared_error, budget, groups=[]),
        ),
        ("mystery", lambda: firefly.grow(net, [x], squared_error, budget, optimizer=optimizer)),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()
        assert unchanged(net, before)
        assert [name for name, _ in net.named_modules()] == names
        assert all(module.training for module in net.modules())
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in listed]
    assert torch.equal(torch.get_rng_state(), draws)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("give at least one of neurons, layers", lambda: Budget()),
        ("flops: expected a number from 0 on, got -1", lambda: Budget(flops=-1)),
        ("step: expected a positive number, got 0", lambda: Firefly(step=0)),
        ("new: expected at least 0, got -1", lambda: Firefly(new=-1)),
        ("there is no candidate", lambda: Firefly(new=0, split=False)),
        ("score_batches >= 1", lambda: Firefly(score_batches=0)),
    ],
)
def test_numbers_out_of_range_are_refused(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=message):
        call()
