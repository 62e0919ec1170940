"""How many parameters and FLOPs a network has for given widths, without building it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from pcl.models.growth.graph import Channels, WidthGraph


@dataclass(frozen=True)
class _Call:
    """A layer at one place of the network."""

    layer: str
    out: str | int  # rows: the group, or their number
    into: tuple[str, int] | int  # columns: the group and its repeat, or their number
    kernel: int
    positions: int  # at how many positions of one sample the layer is evaluated
    entries: int  # further parameters per row: a bias
    multiplies: bool


class Sizes:
    """Counts for a traced network.

    Parameters are those of all Linear, Conv2d, BatchNorm and LayerNorm layers on which widths act. FLOPs are those of
    Linear and Conv2d layers for one sample, a multiplication and an addition counting as two.
    """

    def __init__(self, graph: WidthGraph) -> None:
        self.widths = {name: group.width for name, group in graph.groups.items()}
        self._calls = [call for node in graph.module.graph.nodes if (call := _call(graph, node)) is not None]

    def parameters(self, widths: Mapping[str, int]) -> int:
        """For widths of some groups; the others have the width they have."""
        layers = {call.layer: call for call in self._calls}  # a layer that is called twice has its parameters once
        return sum(self._rows(c, widths) * (self._columns(c, widths) * c.kernel + c.entries) for c in layers.values())

    def flops(self, widths: Mapping[str, int]) -> int:
        """For widths of some groups; the others have the width they have."""
        calls = [c for c in self._calls if c.multiplies]
        return sum(2 * c.positions * self._rows(c, widths) * self._columns(c, widths) * c.kernel for c in calls)

    def _rows(self, call: _Call, widths: Mapping[str, int]) -> int:
        return call.out if isinstance(call.out, int) else widths.get(call.out, self.widths[call.out])

    def _columns(self, call: _Call, widths: Mapping[str, int]) -> int:
        if isinstance(call.into, int):
            return call.into
        group, repeat = call.into
        return repeat * widths.get(group, self.widths[group])


def _call(graph: WidthGraph, node: fx.Node) -> _Call | None:
    if node.op != "call_module":
        return None
    layer: Any = graph.module.get_submodule(str(node.target))
    at = graph.channels.get(node.name)
    if isinstance(layer, nn.Linear | nn.Conv2d):
        rows, columns = layer.weight.shape[:2]
        source = graph.channels.get(node.all_input_nodes[0].name)
        into: tuple[str, int] | int = columns
        if getattr(layer, "groups", 1) == 1 and source is not None:
            into = (source.group, source.repeat)
        shape = graph.shapes[node.name]
        positions = (shape[2:] if isinstance(layer, nn.Conv2d) else shape[1:-1]).numel()
        return _Call(
            str(node.target), _rows(at, rows), into, layer.weight.shape[2:].numel(), positions, _bias(layer), True
        )
    if (
        at is not None
        and isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm)
        and layer.weight is not None
    ):
        return _Call(str(node.target), at.group, 1, 1, 0, _bias(layer), False)
    return None


def _rows(at: Channels | None, rows: int) -> str | int:
    return rows if at is None else at.group


def _bias(layer: Any) -> int:
    return 0 if layer.bias is None else 1
