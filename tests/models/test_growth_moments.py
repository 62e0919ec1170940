"""What the optimizer knows of a network that has grown."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pcl.models.growth.rebuild import rebuild
from tests.models.rebuild_cases import assert_close, made, plan_for, train

TINY = 1e-30  # so that no optimizer's eps is seen
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9, nesterov=True),
    "plain SGD": lambda p, lr: torch.optim.SGD(p, lr),
    "Adam": lambda p, lr: torch.optim.Adam(p, lr, amsgrad=True, eps=TINY),
    "AdamW": lambda p, lr: torch.optim.AdamW(p, lr, eps=TINY),
    "NAdam": lambda p, lr: torch.optim.NAdam(p, lr, eps=TINY),
    "Adamax": lambda p, lr: torch.optim.Adamax(p, lr, eps=TINY),
    "RMSprop": lambda p, lr: torch.optim.RMSprop(p, lr, momentum=0.5, centered=True, eps=TINY),
    "Adadelta": lambda p, lr: torch.optim.Adadelta(p, lr, eps=TINY),
    "Adagrad": lambda p, lr: torch.optim.Adagrad(p, lr, eps=TINY),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", ["mlp", "normed", "images", "layer_normed", "tied", "residual"])
def test_moments_are_those_of_the_network_that_had_been_split_all_along(name: str, kind: str) -> None:
    """With lr = 0 both keep their weights, and halves see half of the gradient."""
    net, groups, x = made(name)
    groups = {n: g for n, g in groups.items() if g.width}
    plan = plan_for(net, groups, 0.0, new=0)
    split = copy.deepcopy(net)
    rebuild(split, groups, plan)
    late, early = (OPTIMIZERS[kind](n.parameters(), 0.0) for n in (net, split))
    train(net, x, late)
    train(split, x, early)
    rebuild(net, groups, plan, late)
    compared = 0
    for (key, one), (_, other) in zip(net.named_parameters(), split.named_parameters(), strict=True):
        assert torch.equal(one, other), key
        found, expected = late.state[one], early.state[other]
        assert found.keys() == expected.keys()
        for moment, value in expected.items():
            if isinstance(value, Tensor):
                assert_close(found[moment], value, 1e-11)
                compared += value.dim() > 0
            else:
                assert found[moment] == value
    assert compared >= 2 or kind == "plain SGD"


def test_new_neurons_start_with_no_moments_and_copies_with_their_originals() -> None:
    net, groups, x = made("mlp")
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    train(net, x, optimizer)
    first, second = (net[i].weight for i in (0, 2))  # type: ignore[union-attr]
    old = [optimizer.state[p]["exp_avg"].clone() for p in (first, second)]  # type: ignore[index]
    plan = plan_for(net, groups, 0.1, new=3, split=1, copied=2)["0"]
    rebuild(net, groups, {"0": plan}, optimizer)
    rows, columns = (optimizer.state[net[i].weight]["exp_avg"] for i in (0, 2))  # type: ignore[union-attr, index]
    kept = [i for i in range(6) if i not in plan.split]
    assert torch.equal(rows[kept], old[0][kept])
    assert torch.equal(rows[plan.split], old[0][plan.split] / 2)
    assert torch.equal(rows[6:7], old[0][plan.split] / 2)
    assert torch.equal(rows[7:9], old[0][plan.copied])
    assert (rows[9:] == 0).all()
    assert torch.equal(columns[:, :6], old[1])
    assert torch.equal(columns[:, 6:9], old[1][:, [*plan.split, *plan.copied]])
    assert (columns[:, 9:] == 0).all()
    assert all(int(optimizer.state[p]["step"]) == 3 for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "moment"), [("Adam", "exp_avg_sq"), ("Adam", "max_exp_avg_sq"), ("RMSprop", "square_avg")]
)
def test_mean_squares_of_new_neurons_start_from_those_of_the_tensor(name: str, moment: str) -> None:
    net, groups, x = made("mlp")
    optimizer = OPTIMIZERS[name](net.parameters(), 0.01)
    train(net, x, optimizer)
    layers: list[Any] = [net[0], net[2]]  # type: ignore[index]
    means = [optimizer.state[p][moment].mean() for p in (layers[0].weight, layers[0].bias, layers[1].weight)]
    plan = {name: plan_for(net, groups, 0.1, new=3, split=split)[name] for name, split in (("0", 1), ("2", 0))}
    rebuild(net, groups, plan, optimizer)
    rows, bias, both = (optimizer.state[p][moment] for p in (layers[0].weight, layers[0].bias, layers[1].weight))
    assert (rows[7:] == means[0]).all()
    assert (bias[7:] == means[1]).all()
    assert (both[:, 7:] == means[2]).all()
    assert (both[-3:] == means[2]).all()


def test_new_neurons_take_no_longer_steps_than_others() -> None:
    """The step counter has gone too far to correct a mean that starts from 0, which would be a thousandth here."""
    net, groups, x = made("mlp")
    rate = 1e-5
    optimizer = torch.optim.Adam(net.parameters(), rate, betas=(0.0, 0.999))
    for _ in range(300):
        train(net, x, optimizer)
    rebuild(net, groups, {"0": plan_for(net, groups, 0.1, new=3, split=0)["0"]}, optimizer)
    weight: Any = net[2].weight  # type: ignore[index, union-attr]
    begin = weight[:, 6:].detach().clone()
    train(net, x, optimizer, steps=1)
    assert 0 < (net[2].weight[:, 6:] - begin).abs().max() < 10 * rate  # type: ignore[index, union-attr]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_next_step_moves_untouched_entries_as_if_nothing_had_grown(kind: str) -> None:
    net, groups, x = made("mlp")
    settings = [{"params": [net[0].weight, net[4].bias]}, {"params": [net[0].bias, net[2].weight, net[4].weight]}]  # type: ignore[union-attr]
    optimizer = OPTIMIZERS[kind](settings, 0.01)
    optimizer.param_groups[1]["lr"] = 0.02
    train(net, x, optimizer)
    twin = copy.deepcopy(net)
    names = [
        [n for p in group["params"] for n, q in net.named_parameters() if p is q] for group in optimizer.param_groups
    ]
    beside = OPTIMIZERS[kind]([{"params": [twin.get_parameter(n) for n in group]} for group in names], 0.01)
    beside.param_groups[1]["lr"] = 0.02
    for name, parameter in net.named_parameters():
        beside.state[twin.get_parameter(name)] = copy.deepcopy(optimizer.state[parameter])
    plan = {"0": plan_for(net, groups, 0.1, new=2, split=1)["0"]}
    rebuild(net, groups, plan, optimizer)
    assert names == [
        [n for p in group["params"] for n, q in net.named_parameters() if p is q] for group in optimizer.param_groups
    ]
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.02]
    kept = [i for i in range(6) if i not in plan["0"].split]
    untouched = {"0.weight": (kept, slice(None)), "0.bias": kept, "2.weight": (slice(None), kept)}
    for name, parameter in net.named_parameters():
        at: Any = untouched.get(name, ())
        parameter.grad = torch.randn_like(parameter)
        other = twin.get_parameter(name)
        other.grad = torch.randn_like(other)
        other.grad[at] = parameter.grad[at]
    optimizer.step()
    beside.step()
    for name, parameter in net.named_parameters():
        at = untouched.get(name, ())
        assert torch.equal(parameter[at], twin.get_parameter(name)[at]), name
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(net, x, optimizer)


def test_what_the_optimizer_does_not_hold_and_frozen_layers_grow_too() -> None:
    net, groups, x = made("mlp")
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[4].parameters(), 0.1, momentum=0.9)  # type: ignore[union-attr]
    train(net, x, optimizer)
    rebuild(net, groups, plan_for(net, groups), optimizer)
    assert not net[0].weight.requires_grad  # type: ignore[union-attr]
    assert net[2].weight.requires_grad  # type: ignore[union-attr]
    assert len(optimizer.state) == 2
