"""Networks rebuilt with more or fewer neurons."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcl.models.growth.graph import Group, Reader
from pcl.models.growth.norms import WeightedLayerNorm
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.rebuild import rebuild, select_neurons
from pcl.models.growth.residual_layer import EmptyableConv2d
from tests.models.rebuild_cases import CASES, assert_close, made, plan_for, train

# ---- the function


@pytest.mark.parametrize("name", CASES)
def test_without_a_step_the_function_stays(name: str) -> None:
    net, groups, x = made(name)
    before, modules = net(x), [id(module) for module in net.modules()]
    widths = {n: g.width for n, g in groups.items()}
    for _ in range(2):  # a second time from where the first has led
        rebuild(net, groups, plan_for(net, groups, 0.0))
        assert_close(net(x), before)
        assert modules == [id(module) for module in net.modules()]
        for group_name, group in groups.items():
            widths[group_name] += min(2, group.width) + 2
            groups[group_name] = Group(
                group_name, widths[group_name], group.producers, group.channelwise, group.readers
            )
            for producer in group.producers:
                assert len(net.get_submodule(producer).weight) == widths[group_name]  # type: ignore[arg-type]
    layers: list[Any] = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers:
        out, inputs = (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else (
            layer.out_channels, layer.in_channels // layer.groups)  # fmt: skip
        assert layer.weight.shape[:2] == (out, inputs)
    rebuild(net, groups, plan_for(net, groups, 0.3))
    assert (net(x) - before).abs().max() > 1e-3  # and with one it does not


@pytest.mark.parametrize("name", CASES)
def test_the_change_is_of_the_order_of_the_step(name: str) -> None:
    """Splits move the function by step^2, new neurons by step."""
    moved = {}
    for new, split in ((0, 2), (2, 0)):
        for step in (1e-3, 1e-4):
            net, groups, x = made(name)
            net = nn.Sequential(*[nn.GELU() if isinstance(m, nn.ReLU) else m for m in net]) if name != "tied" else net
            before = net(x)
            torch.manual_seed(1)
            rebuild(net, groups, plan_for(net, groups, step, new=new, split=split))
            moved[new, step] = float((net(x) - before).detach().abs().max())
    assert moved[2, 1e-3] / moved[2, 1e-4] == pytest.approx(10, rel=0.1)
    if name not in ("tied", "residual", "residual_images", "images"):  # a ReLU or a maximum may change its side
        assert moved[0, 1e-3] / moved[0, 1e-4] == pytest.approx(100, rel=0.1)


def test_two_groups_that_grow_at_once_are_the_over_grown_network() -> None:
    """Directions and new rows read the old neurons, as means of halves; halves read new neurons as their old row."""
    net, groups, x = made("mlp")
    plan = plan_for(net, groups, 0.4)
    (w1, b1, w2, w3, b3) = (p.detach().clone() for p in net.parameters())
    one, two = plan["0"], plan["2"]

    def collapsed(act: Any, a: Tensor, growth: GroupGrowth, d: Tensor) -> Tensor:
        h = act(a)
        h[:, growth.split] = (act(a[:, growth.split] + d) + act(a[:, growth.split] - d)) / 2
        return h

    d1 = x @ (one.rows_plus["0"][0] - w1[one.split]).T + one.rows_plus["0"][1] - b1[one.split]
    h1 = collapsed(torch.relu, x @ w1.T + b1, one, d1)
    n1 = torch.relu(x @ one.rows_new["0"][0].T + one.rows_new["0"][1])
    d2 = h1 @ (two.rows_plus["2"][0] - w2[two.split]).T
    h2 = collapsed(torch.tanh, h1 @ w2.T + n1 @ one.columns_new["2"].T, two, d2)
    n2 = torch.tanh(h1 @ two.rows_new["2"][0].T)
    expected = h2 @ w3.T + n2 @ two.columns_new["4"].T + b3
    rebuild(net, groups, plan)
    assert_close(net(x), expected)


def test_a_copy_is_added_beside_its_original() -> None:
    net, groups, x = made("mlp")
    plan = {"0": plan_for(net, groups, 0.4, new=0, split=0, copied=2)["0"]}
    copied = plan["0"].copied
    first: Any = net[0]
    second: Any = net[2]
    w1, b1, w2 = (t.detach().clone() for t in (first.weight, first.bias, second.weight))
    moved_w, moved_b = plan["0"].rows_copied["0"]
    expected = torch.relu(x @ w1.T + b1) @ w2.T + torch.relu(x @ moved_w.T + moved_b) @ w2[:, copied].T
    rebuild(net, groups, plan)
    assert torch.equal(first.weight[:6], w1)
    assert_close(net[:3](x), expected)  # type: ignore[index]


def test_fewer_neurons_are_the_network_that_reads_no_others() -> None:
    for name in ("mlp", "normed", "images", "tied"):
        net, groups, x = made(name)
        keep = {n: torch.randperm(g.width)[: g.width - 2].sort().values for n, g in groups.items()}
        silent = copy.deepcopy(net)
        for n, group in groups.items():
            gone = torch.ones(group.width, dtype=torch.bool)
            gone[keep[n]] = False
            for reader in group.readers:
                weight: Any = silent.get_submodule(reader.layer).weight
                weight.data[:, gone.repeat_interleave(reader.repeat)] = 0
        masks = {n: torch.zeros(g.width, dtype=torch.bool).index_fill_(0, keep[n], True) for n, g in groups.items()}
        by_mask = copy.deepcopy(net)
        select_neurons(net, groups, keep)
        select_neurons(by_mask, groups, masks)
        assert_close(net(x), silent(x))
        assert torch.equal(net(x), by_mask(x))
        for group in groups.values():
            assert len(net.get_submodule(group.producers[0]).weight) == group.width - 2  # type: ignore[arg-type]


def test_shares_of_kept_channels_have_the_sum_one() -> None:
    net, groups, x = made("layer_normed")
    rebuild(net, groups, plan_for(net, groups, 0.0))
    keep = torch.tensor([0, 3, 9])  # the last is new
    groups = {"0": Group("0", 10, ("0",), ("1",), (Reader("3"),))}
    norm: Any = net[1]
    shares = norm.weights[keep] / norm.weights[keep].sum()
    select_neurons(net, groups, {"0": keep})
    assert torch.equal(norm.weights, shares)
    assert norm.weights[2] == 0
    assert net(x).isfinite().all()


def test_all_hidden_neurons_of_a_residual_layer_may_go() -> None:
    net, groups, x = made("residual_images")
    layer: Any = net[2]
    select_neurons(net, groups, {"2.inner": torch.zeros(2, dtype=torch.bool)})
    assert isinstance(layer.inner, EmptyableConv2d)
    y = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    assert torch.equal(layer(y), y)
    before = net(x)
    rebuild(net, {n: Group(n, 0, g.producers, (), g.readers) for n, g in groups.items()}, {"2.inner": GroupGrowth()})
    assert torch.equal(net(x), before)


def test_channels_last_memory_stays() -> None:
    net, groups, x = made("images")
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters())
    train(net, x, optimizer)
    rebuild(net, groups, plan_for(net, groups), optimizer)
    weight: Any = net[5].weight  # type: ignore[union-attr]
    for tensor in (weight, optimizer.state[weight]["exp_avg"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


# ---- refusals


def changed(growth: GroupGrowth, **fields: Any) -> GroupGrowth:
    for name, value in fields.items():
        setattr(growth, name, value)
    return growth


def without(entries: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if key not in names}


REFUSALS: dict[str, tuple[Callable[[GroupGrowth], object], str]] = {
    "neuron out of range": (
        lambda g: changed(g, split=torch.tensor([0, 4])),
        r"split: expected int64 indices of its 4 neurons, .* got torch\.int64 \[0, 4\]",
    ),
    "neuron twice": (lambda g: changed(g, split=torch.tensor([1, 1])), "each at most once"),
    "float indices": (lambda g: changed(g, copied=torch.tensor([1.0])), r"copied: .* got torch\.float32"),
    "split and copied": (lambda g: changed(g, copied=g.split[:1]), "are split and copied"),
    "negative": (lambda g: changed(g, new=-1), "new: expected at least 0, got -1"),
    "strange layer": (lambda g: g.rows_plus.update(x=g.rows_plus["0"]), r"rows_plus names x; the group has 0, 1"),
    "no rows": (lambda g: changed(g, rows_new={}), "gains 2 new neurons, but rows_new or columns_new lack 0"),
    "no columns": (lambda g: changed(g, columns_new={}), "columns_new lack 5"),
    "no depthwise rows": (lambda g: changed(g, rows_new=without(g.rows_new, "3")), "rows_new lacks '3'"),
    "no bias": (lambda g: g.rows_new.update({"3": (g.rows_new["3"][0], None)}), "of '3', bias: expected 2 entries"),
    "rows of another shape": (
        lambda g: g.rows_plus.update({"0": (g.rows_plus["0"][0][:1], None)}),
        r"rows_plus of '0': expected \(2, 2, 3, 3\) torch.float64 on cpu, got \(1, 2, 3, 3\)",
    ),
    "columns of another shape": (
        lambda g: g.columns_new.update({"5": torch.ones(3)}),
        r"columns_new of '5': expected \(6, 2, 3, 3\) .* got \(3,\)",
    ),
    "another dtype": (
        lambda g: g.columns_new.update({"5": g.columns_new["5"].float()}),
        r"torch\.float64 on cpu, got .* torch\.float32",
    ),
    "no entries of a norm": (
        lambda g: g.norms_new["1"].pop("running_var"),
        "norms_new of '1', running_var: expected 2 entries",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_a_plan_that_does_not_fit_is_refused_and_changes_nothing(what: str) -> None:
    change, words = REFUSALS[what]
    net, groups, x = made("images")
    optimizer = torch.optim.Adam(net.parameters())
    train(net, x, optimizer)
    plan = plan_for(net, groups)
    change(plan["0"])
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    parameters = list(map(id, net.parameters()))
    with pytest.raises(ValueError, match=words):
        rebuild(net, dict(reversed(groups.items())), dict(reversed(plan.items())), optimizer)
    assert parameters == list(map(id, net.parameters()))
    after = (net.state_dict(), optimizer.state_dict())
    assert str(after) == str(before)


def test_networks_and_optimizers_that_cannot_follow_are_refused() -> None:
    net, groups, x = made("mlp")
    plan = plan_for(net, groups)
    with pytest.raises(ValueError, match="no group is called 'x'; there are 0, 2"):
        rebuild(net, groups, {"x": GroupGrowth(new=1)})
    fixed = Group("0", 6, ("0",), (), (Reader("2"),), "it is an output")
    with pytest.raises(ValueError, match="width of '0' is fixed: it is an output"):
        select_neurons(net, {"0": fixed}, {"0": torch.tensor([1])})
    stale = {**groups, "0": Group("0", 9, ("0",), (), (Reader("2"),))}
    with pytest.raises(ValueError, match="'0' has 9 neurons, but '0' 6 outputs: the groups are not those"):
        rebuild(net, stale, {"0": GroupGrowth(split=torch.tensor([8]))})
    with pytest.raises(ValueError, match=r"keep: expected \(6,\) torch.bool"):
        select_neurons(net, groups, {"0": torch.ones(5, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"'1', a ReLU, cannot be rebuilt; expected one of Linear"):
        rebuild(net, {"0": Group("0", 6, ("0",), ("1",), (Reader("2"),))}, {"0": GroupGrowth(split=torch.tensor([1]))})
    for optimizer, words in (
        (torch.optim.Rprop(net.parameters()), r"Rprop keeps 'prev' \(shape \(6,\)\) of '0.bias' \(6,\)"),
        (torch.optim.ASGD(net.parameters()), "ASGD keeps 'ax'"),
    ):
        train(net, x, optimizer)
        with pytest.raises(ValueError, match=words):
            rebuild(net, groups, plan, optimizer)
    images, image_groups, _ = made("images")
    with pytest.raises(ValueError, match="cannot run without channels: keep at least one neuron of '5'"):
        select_neurons(images, image_groups, {"5": torch.zeros(6, dtype=torch.bool)})
    parametrize.register_parametrization(net[2], "weight", nn.Identity())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'2' is parametrized: take that off"):
        rebuild(net, groups, plan)


def test_a_shared_weight_is_refused() -> None:
    net, groups, _ = made("tied")
    net.outer.weight = net.inner.weight  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"'(inner|outer).weight' is shared with '(inner|outer).weight'"):
        rebuild(net, groups, plan_for(net, groups))


def test_a_plain_layer_norm_becomes_one_with_shares() -> None:
    net, groups, _ = made("layer_normed")
    norm = net[1]  # type: ignore[index]
    rebuild(net, groups, {"0": plan_for(net, groups, new=1, split=1)["0"]})
    assert net[1] is norm  # type: ignore[index]
    assert isinstance(norm, WeightedLayerNorm)
    assert sorted(norm.weights.tolist()) == pytest.approx([0, 1 / 12, 1 / 12, *[1 / 6] * 5])
    assert "1.weights" in net.state_dict()
    assert type(net[4]) is nn.LayerNorm  # type: ignore[index]
