"""The over-grown network is the network at epsilon = 0, and the rebuilt one where few steps are left."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcl import Budget, Firefly, WidthGraph
from pcl.models.growth.candidates import Candidates
from pcl.models.growth.choice import choose, planned, steps_taken
from pcl.models.growth.graph import Group
from pcl.models.growth.overgrown import OverGrown
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.rebuild import rebuild
from tests.models.growth_nets import NETS, flat, made, squared_error

KINDS = ("split and new", "new", "split", "copies and new", "mixed")


def grown(net: nn.Module, x: Tensor, kind: str, *, step: float = 0.1, fast: bool = True) -> OverGrown:
    """An over-grown network with candidates of a kind."""
    graph = WidthGraph(net, x)
    widths = {name: graph.groups[name].width for name in graph.growable()}
    mirror = {}
    if kind in ("copies and new", "mixed"):
        mirror = {name: torch.ones(width) for name, width in widths.items()}
    if kind == "mixed":
        mirror = {name: (torch.arange(width) % 2 * 2 - 1).float() for name, width in widths.items()}
    allowed = {name: torch.arange(width) % 3 > 0 for name, width in widths.items()} if kind == "mixed" else None
    new = 0 if kind == "split" else 2
    candidates = Candidates(graph, new=new, split=kind != "new", mirror=mirror, allowed=allowed, step=step, seed=1)
    network = OverGrown(graph, candidates, fast=fast)
    with network.measuring():
        network(x)
    return network


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NETS)
def test_is_the_network_at_epsilon_zero(name: str, kind: str) -> None:
    net, x = made(name)
    network = grown(net, x, kind)
    with torch.no_grad():
        moved = (flat(network(x)) - flat(net(x))).abs().max()
        for c in network.candidates.groups.values():
            c.epsilon.zero_(), c.epsilon_new.zero_()
        torch.testing.assert_close(flat(network(x)), flat(net(x)), rtol=1e-12, atol=1e-12)
    linear = kind == "split" and name.startswith("residual")  # without hidden neurons: halves average out exactly
    assert moved > 1e-6 or linear


@pytest.mark.parametrize("name", NETS)
def test_the_fast_path_gives_the_same_numbers_and_gradients(name: str) -> None:
    net, x = made(name)
    fast, slow = (grown(net, x, "split and new", fast=f) for f in (True, False))
    assert name not in ("smooth", "vgg", "backbone") or len(fast.fast) > 0
    found = [torch.autograd.grad(squared_error(n, x), n.candidates.trained(), allow_unused=True) for n in (fast, slow)]
    torch.testing.assert_close(flat(fast(x)), flat(slow(x)), rtol=1e-12, atol=1e-12)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", ["split and new", "new", "split"])
@pytest.mark.parametrize("name", NETS)
def test_with_few_steps_left_is_the_rebuilt_network(name: str, kind: str) -> None:
    net, x = made(name)
    network = grown(net, x, kind)
    graph, candidates = network.widths, network.candidates
    draws = torch.Generator().manual_seed(0)
    scores, chosen = {}, {}
    for group, c in candidates.groups.items():
        scores[group] = tuple(torch.randn(len(e), generator=draws).double() for e in (c.epsilon, c.epsilon_new))
        able = torch.cat([c.allowed, torch.ones(c.new).bool()])
        chosen[group] = able & (torch.rand(len(able), generator=draws) < 0.5)
        with torch.no_grad():
            old, new = steps_taken(c, *scores[group], candidates.step)
            c.epsilon.copy_(old * chosen[group][: len(old)]), c.epsilon_new.copy_(new * chosen[group][len(old) :])
    expected = flat(network(x)).detach()
    plan = planned(graph, candidates, scores, chosen)  # type: ignore[arg-type]
    rebuild(net, graph.groups, plan)
    torch.testing.assert_close(flat(net(x)), expected, rtol=1e-12, atol=1e-12)


def test_new_neurons_behind_a_batch_norm_are_normalised() -> None:
    """Their mean and variance on the batch that was measured are 0 and 1."""
    net, x = made("heads")
    network = grown(net, x, "new")
    seen: list[Tensor] = []
    wide = network._batch_norm
    network._batch_norm = lambda *given: seen.append((y := wide(*given)).tensor) or y  # type: ignore[method-assign]
    network(x)
    new = seen[0][:, 6:]
    torch.testing.assert_close(new.mean(0), torch.zeros(2).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(new.var(0, correction=0), torch.ones(2).double(), atol=1e-2, rtol=0)  # norm.eps counts


@pytest.mark.parametrize("name", ["backbone", "vgg", "tied", "resnet", "smooth"])
def test_a_masked_neuron_is_one_that_nobody_reads(name: str) -> None:
    net, x = made(name)
    network = grown(net, x, "split and new")
    masks = {g: (torch.arange(c.group.width) % 2).double() for g, c in network.candidates.groups.items()}
    found = flat(network(x, masks=masks))
    cut = copy.deepcopy(net)
    for group, c in network.candidates.groups.items():
        for reader in c.group.readers:
            weight = cut.get_submodule(reader.layer).weight
            with torch.no_grad():
                weight.mul_(_by_column(masks[group], reader.repeat, weight))  # type: ignore[arg-type, operator]
    other = OverGrown(WidthGraph(cut, x), network.candidates)
    _mask_directions(network.candidates, masks)
    torch.testing.assert_close(found, flat(other(x)), rtol=1e-12, atol=1e-12)
    assert (found - flat(network(x))).abs().max() > 1e-6


def _by_column(mask: Tensor, repeat: int, weight: Any) -> Tensor:
    return mask.repeat_interleave(repeat).view(1, -1, *[1] * (weight.dim() - 2))


@torch.no_grad()
def _mask_directions(candidates: Candidates, masks: dict[str, Tensor]) -> None:
    """Directions and new rows do not read masked neurons either."""
    groups: list[Group] = [c.group for c in candidates.groups.values()]
    for c in candidates.groups.values():
        for layer in c.group.producers:
            for below in groups:
                for reader in below.readers:
                    if reader.layer == layer:
                        for rows in (c.delta[layer][0], c.rows[layer][0]):
                            rows.mul_(_by_column(masks[below.name], reader.repeat, rows))


def test_nothing_of_the_network_changes() -> None:
    net, x = made("vgg")
    net.train()
    graph = WidthGraph(net, x)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.eval()
    Firefly(new=2, steps=2).search(graph, Candidates(graph, new=2), [x], squared_error, Budget(neurons=3))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_candidates_refuse_what_does_not_fit() -> None:
    net, x = made("backbone")
    graph = WidthGraph(net, x)
    with pytest.raises(ValueError, match=r"allowed: expected shape \(6,\) for group '0.1', got \(5,\)"):
        Candidates(graph, allowed={"0.1": torch.ones(5)})
    with pytest.raises(ValueError, match="the width of '1' is fixed: it is an output of the network"):
        Candidates(graph, groups=["1"])
    with pytest.raises(ValueError, match="mirror: expected -1"):
        Candidates(graph, mirror={"0.1": torch.zeros(6)})


def test_draws_depend_on_the_seed_the_group_and_the_widths_alone() -> None:
    net, x = made("backbone")
    graph = WidthGraph(net, x)
    first, alone, other = (
        Candidates(graph, **kw).groups["0.3"].delta["0.3"][0] for kw in ({}, {"groups": ["0.3"]}, {"seed": 1})
    )
    assert torch.equal(first, alone)
    assert not torch.equal(first, other)
    before = Candidates(graph).groups["0.1"].delta["0.1"][0]
    rebuild(net, graph.groups, {"0.3": GroupGrowth(split=torch.tensor([0]))})
    later = Candidates(WidthGraph(net, x)).groups["0.1"].delta["0.1"][0]  # of a group that is as it was
    assert later.shape == before.shape
    assert not torch.equal(later, before)


def test_a_budget_is_kept_exactly() -> None:
    net, x = made("vgg")
    graph = WidthGraph(net, x)
    candidates = Candidates(graph, new=20)
    gain = {name: torch.rand(c.group.width + c.new).double() for name, c in candidates.groups.items()}
    before = sum(p.numel() for p in net.parameters())
    chosen = choose(graph, candidates, gain, Budget(parameters=1500))
    scores = {n: (torch.ones(len(c.epsilon)), torch.ones(c.new)) for n, c in candidates.groups.items()}
    rebuild(net, graph.groups, planned(graph, candidates, scores, chosen))
    assert 1200 < sum(p.numel() for p in net.parameters()) - before <= 1500
