"""Which widths are tied, and why others are fixed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcl import WidthGraph
from pcl.models.growth.graph import Group, Reader
from pcl.models.growth.sizes import Sizes
from tests.models import rebuild_cases
from tests.models.growth_nets import NETS, made


@pytest.mark.parametrize("name", rebuild_cases.CASES)
def test_groups_are_those_written_by_hand(name: str) -> None:
    net, groups, x = rebuild_cases.made(name)
    graph = WidthGraph(net, x)
    assert {group: graph.groups[group] for group in graph.growable()} == groups


def test_residual_additions_tie_a_stage() -> None:
    net, x = made("resnet")
    graph = WidthGraph(net, x)
    stem = graph.groups["1.stem.0"]
    assert stem.producers == ("1.stem.0", "1.blocks.0.residual.3", "1.blocks.1.residual.3")
    assert [r.layer for r in stem.readers] == [
        *("1.blocks.0.residual.0", "1.blocks.1.residual.0", "1.blocks.2.residual.0", "1.blocks.2.shortcut.0")
    ]
    assert len(graph.growable()) == 12  # four streams and the inside of eight blocks
    assert graph.groups["2"].fixed == "it is an output of the network"


def test_depthwise_layers_belong_to_the_channels_that_pass() -> None:
    net, x = made("mobile")
    assert WidthGraph(net, x).group("0") == Group("0", 4, ("0",), ("1", "3", "4"), (Reader("6"),))


def test_functions_and_methods_are_followed() -> None:
    net, x = made("functional")
    graph = WidthGraph(net, x)
    assert graph.group("first") == Group("first", 4, ("first", "second"), (), (Reader("second"), Reader("third")))
    assert graph.group("third") == Group("third", 5, ("third",), (), (Reader("last"),))


def test_all_heads_read_the_features() -> None:
    net, x = made("heads")
    assert WidthGraph(net, x).group("body").readers == (Reader("a"), Reader("b"))


class _With(nn.Module):
    """A layer of width 4, whatever is to be tried, and a layer behind it."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(3, 4), nn.Linear(4, 2), nn.GroupNorm(2, 4)
        self.register_buffer("own", torch.ones(4))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.between(self, self.first(x)))
        return y


FIXED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "'norm', a GroupNorm, is nothing that growing understands": lambda net, h: net.norm(h),
    "'softmax' (softmax) is nothing that growing understands": lambda net, h: h.softmax(1),
    "'mul' joins it with 'own', whose width is fixed": lambda net, h: h * net.own,
    "'cat' (cat) joins it with something else": lambda net, h: torch.cat([h, h.tanh()], 1)[:, :4],
    "'view' writes its width as a number; use -1": lambda net, h: h.view(-1, 4),
    "'view' gives its channels another shape": lambda net, h: h.view(h.size(0), -1, 2).flatten(1),
    "'getitem' reads its width as a number": lambda net, h: h / h.shape[1],
    "'mean' (mean) runs over its channels": lambda net, h: h - h.mean(1, keepdim=True),
    "'getitem' (getitem) is nothing that growing understands": lambda net, h: h[:, [0, 1, 2, 3]],
}


@pytest.mark.parametrize("reason", FIXED)
def test_what_is_not_understood_fixes_the_width(reason: str) -> None:
    graph = WidthGraph(_With(FIXED[reason]), torch.randn(5, 3))
    assert graph.growable() == []
    with pytest.raises(ValueError, match=re.escape(f"the width of 'first' is fixed: {reason}")):
        graph.group("first")


def test_channels_on_different_dimensions_are_not_tied() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear, self.last = nn.Conv2d(4, 4, 1), nn.Linear(4, 4), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.conv(x) + self.linear(x))
            return y

    graph = WidthGraph(Cross(), torch.randn(2, 4, 4, 4))
    assert (
        graph.groups["conv"].fixed == graph.groups["linear"].fixed == "'add' joins it with channels that lie elsewhere"
    )


def test_grouped_convolutions_and_other_dimensions_fix_the_width() -> None:
    grouped = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 2, 1))
    graph = WidthGraph(grouped, torch.randn(2, 3, 4, 4))
    assert graph.groups["0"].fixed == graph.groups["2"].fixed == "'2' is a convolution in 2 groups"
    along = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(5, 6), nn.Conv2d(4, 2, 1))
    assert WidthGraph(along, torch.randn(2, 3, 4, 5)).groups["0"].fixed == "'1' runs along another dimension of it"


def test_a_layer_with_two_inputs_of_different_origin_fixes_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.first(x)) + self.last(x)
            return y

    graph = WidthGraph(Twice(), torch.randn(5, 3))
    assert graph.groups["first"].fixed == "'last' is called with another input as well"


def test_a_layer_used_twice_is_one_width() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.middle(self.middle(self.first(x)).relu()).relu())
            return y

    group = WidthGraph(Twice(), torch.randn(5, 3)).group("first")
    assert group.producers == ("first", "middle")


def test_errors_name_the_layer() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    net = nn.Sequential(nn.Linear(3, 4), Branch(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"cannot be traced, it stops in '1'.*name a module .* in `pointwise`"):
        WidthGraph(net, torch.randn(5, 3))
    graph = WidthGraph(net, torch.randn(5, 3), pointwise=[Branch])
    assert graph.group("0").readers == (Reader("2"),)
    with pytest.raises(ValueError, match=r"does not run on the example, it stops at '0'") as found:
        WidthGraph(nn.Sequential(nn.Linear(3, 4)), torch.randn(5, 2))
    assert "\n" not in str(found.value)
    with pytest.raises(ValueError, match="no group is called 'x'; there are 0, 2"):
        graph.group("x")


@pytest.mark.parametrize("name", NETS)
def test_tracing_leaves_the_network_alone(name: str) -> None:
    net, x = made(name)
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    WidthGraph(net, x)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_counts_are_those_of_the_network(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    net, x = made(name, samples=2)
    sizes = Sizes(WidthGraph(net, x))
    assert sizes.parameters({}) == sum(p.numel() for p in net.parameters())
    with FlopCounterMode(display=False) as counter:
        net(x)
    assert sizes.flops({}) * len(x) == counter.get_total_flops()
