"""How channels run through a traced network: one rule for every kind of operation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from pcl.models.growth.groups import Channels, Group, Reader
from pcl.models.growth.operations import (
    ARITHMETIC,
    POINTWISE,
    POINTWISE_MODULES,
    POOLING,
    POOLING_MODULES,
    REDUCTIONS,
    RESHAPES,
    name_of,
)


@dataclass
class _Open:
    """A group while it is being found."""

    width: int
    producers: list[str] = field(default_factory=list)
    channelwise: list[str] = field(default_factory=list)
    readers: dict[str, int] = field(default_factory=dict)  # repeat by layer
    fixed: str | None = None
    into: "_Open | None" = None  # what it was tied to

    def last(self) -> "_Open":
        return self if self.into is None else self.into.last()

    def fix(self, reason: str) -> None:
        self.last().fixed = self.last().fixed or reason


@dataclass(frozen=True)
class _At:
    """A value's channels, while groups may still be tied."""

    group: _Open
    axis: int
    repeat: int = 1


class Ties:
    """Walks through the nodes of a traced network in order; see :class:`pcl.models.growth.graph.WidthGraph`."""

    def __init__(
        self, module: fx.GraphModule, shapes: dict[str, torch.Size], pointwise: tuple[type[nn.Module], ...]
    ) -> None:
        self.module, self.shapes, self.pointwise = module, shapes, (*POINTWISE_MODULES, *pointwise)
        self.at: dict[fx.Node, _At] = {}  # tensors with channels; the others have none that could grow
        self.sizes: dict[fx.Node, _At] = {}  # shapes of such tensors
        self.made: dict[str, _Open] = {}  # by producer
        self.read: dict[str, _At | None] = {}  # by reader
        for node in module.graph.nodes:
            self._visit(node)

    def groups(self) -> dict[str, Group]:
        """All groups, by the name of their first producer."""
        found = {}
        for group in {id(made.last()): made.last() for made in self.made.values()}.values():
            name = group.producers[0]
            readers = tuple(Reader(*item) for item in group.readers.items())
            fixed = group.fixed or (None if readers else "no Linear or Conv2d reads it")
            parts = tuple(group.producers), tuple(dict.fromkeys(group.channelwise))
            found[name] = Group(name, group.width, *parts, readers, fixed)
        return found

    def channels(self) -> dict[str, Channels]:
        """By the name of a node, where its value has the channels of which group."""
        return {node.name: Channels(at.group.last().producers[0], at.axis, at.repeat) for node, at in self.at.items()}

    # --- one node

    def _visit(self, node: fx.Node) -> None:
        given = [self.at[n] for n in node.all_input_nodes if n in self.at]
        if node.op == "call_module":
            self._module(node, self.module.get_submodule(str(node.target)))
        elif node.op == "output":
            _fix(given, "it is an output of the network")
        elif node.op in ("call_function", "call_method") and (given or self.sizes.keys() & set(node.all_input_nodes)):
            self._call(node, name_of(node), given)

    def _module(self, node: fx.Node, layer: nn.Module) -> None:
        x = self._first(node)
        name = str(node.target)
        if (
            isinstance(layer, nn.Conv2d)
            and layer.groups > 1
            and layer.groups == layer.in_channels == layer.out_channels
        ):
            self._channelwise(node, name, x, axis=1)
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            self._layer(node, name, layer, x)
        elif x is None:
            return
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            self._channelwise(node, name, x, axis=1)
        elif isinstance(layer, nn.LayerNorm):
            own = len(layer.normalized_shape) == 1
            self._channelwise(node, name, x, axis=len(self._shape(node)) - 1 if own else None)
        elif isinstance(layer, self.pointwise) or (isinstance(layer, nn.PReLU) and layer.num_parameters == 1):
            self.at[node] = x
        elif isinstance(layer, POOLING_MODULES):
            self._pooling(node, x)
        elif isinstance(layer, nn.Flatten):
            self._reshape(node, x, ())
        else:
            x.group.fix(f"{name!r}, a {type(layer).__name__}, is nothing that growing understands")

    def _call(self, node: fx.Node, name: str, given: list[_At]) -> None:
        if node.all_input_nodes[0] in self.sizes:
            self._entry(node, self.sizes[node.all_input_nodes[0]], node.args[1] if name == "getitem" else None)
        elif name == "size" and (len(node.args) > 1 or node.kwargs):
            self._entry(node, self._first(node), node.kwargs.get("dim", node.args[-1]))
        elif node.name not in self.shapes:  # no tensor: a shape, a dtype, a device
            self.sizes |= {node: given[0]} if name in ("size", "getattr") and "shape" in (*node.args, "shape") else {}
        elif name in ARITHMETIC:
            self._arithmetic(node)
        elif sum(n.name in self.shapes for n in node.all_input_nodes) > 1:
            _fix(given, f"{node.name!r} ({name or node.target}) joins it with something else")
        elif name in POINTWISE:
            self.at[node] = given[0]
        elif name in POOLING:
            self._pooling(node, given[0])
        elif name in RESHAPES:
            self._reshape(node, given[0], node.args[1:])
        elif name in REDUCTIONS:
            self._reduction(node, given[0])
        else:
            _fix(given, f"{node.name!r} ({name or node.target}) is nothing that growing understands")

    # --- rules

    def _layer(self, node: fx.Node, name: str, layer: nn.Linear | nn.Conv2d, x: _At | None) -> None:
        shape = self._shape(node)
        axis = 1 if isinstance(layer, nn.Conv2d) else len(shape) - 1
        if x is not None and x.axis != axis:
            x.group.fix(f"{name!r} runs along another dimension of it")
            x = None
        if name in self.read:
            before = self.read[name]
            if x is None or before is None or x.repeat != before.repeat:
                _fix([at for at in (x, before) if at is not None], f"{name!r} is called with another input as well")
            else:
                self._tie(x.group, before.group)
        self.read[name] = x
        made = self.made.setdefault(name, _Open(shape[axis], [name]))
        if x is not None:
            x.group.last().readers[name] = x.repeat
        self.at[node] = _At(made, axis)
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            _fix(
                [self.at[node], *([x] if x is not None else [])], f"{name!r} is a convolution in {layer.groups} groups"
            )

    def _channelwise(self, node: fx.Node, name: str, x: _At | None, axis: int | None) -> None:
        if x is None:
            return
        if x.axis != axis or x.repeat != 1:
            x.group.fix(f"{name!r} does not treat its channels one by one")
            return
        x.group.last().channelwise.append(name)
        if name in self.read:  # called before: one layer, one width
            before = self.read[name]
            assert before is not None
            self._tie(x.group, before.group)
        self.read[name] = self.at[node] = x

    def _pooling(self, node: fx.Node, x: _At) -> None:
        if x.axis == 1 and len(self.shapes.get(node.name, ())) == 4:
            self.at[node] = x
        else:
            x.group.fix(f"{node.name!r} does not pool every channel of images (B, C, H, W) by itself")

    def _reshape(self, node: fx.Node, x: _At, sizes: Sequence[Any]) -> None:
        """A view that leaves channels where they are, or joins them with all that comes behind them."""
        before, after = self._shape(node.all_input_nodes[0]), self._shape(node)
        behind = math.prod(before[x.axis + 1 :])
        written = _flat(sizes)[x.axis : x.axis + 1] if name_of(node) in ("view", "reshape") else []
        if written and isinstance(written[0], int) and written[0] != -1:
            x.group.fix(f"{node.name!r} writes its width as a number; use -1")
        elif before == after:
            self.at[node] = x
        elif after == (*before[: x.axis], before[x.axis] * behind):
            self.at[node] = _At(x.group, x.axis, x.repeat * behind)
        else:
            x.group.fix(f"{node.name!r} gives its channels another shape")

    def _reduction(self, node: fx.Node, x: _At) -> None:
        dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        before, after = self._shape(node.all_input_nodes[0]), self._shape(node)
        gone = {d % len(before) for d in _flat([dims]) if isinstance(d, int)}
        if not gone or x.axis in gone:
            x.group.fix(f"{node.name!r} ({name_of(node)}) runs over its channels")
        else:
            moved = 0 if len(after) == len(before) else sum(d < x.axis for d in gone)
            self.at[node] = _At(x.group, x.axis - moved, x.repeat)

    def _arithmetic(self, node: fx.Node) -> None:
        """Both operands have the same channels, or one has none and is the same for all channels."""
        tensors = [n for n in node.all_input_nodes if n.name in self.shapes]
        with_channels = [self.at[n] for n in tensors if n in self.at]
        first = with_channels[0]
        shape = self._shape(node)
        from_end = next(len(self._shape(n)) - self.at[n].axis for n in tensors if n in self.at)  # broadcasting's count
        for n in tensors:
            own = self._shape(n)
            width = own[-from_end] if len(own) >= from_end else 1
            if n not in self.at and width != 1:
                _fix(with_channels, f"{node.name!r} joins it with {n.name!r}, whose width is fixed")
                return
            if n in self.at and (
                self.at[n] != _At(self.at[n].group, len(own) - from_end, first.repeat) or width != shape[-from_end]
            ):
                _fix(with_channels, f"{node.name!r} joins it with channels that lie elsewhere")
                return
        for at in with_channels[1:]:
            self._tie(first.group, at.group)
        self.at[node] = _At(first.group, len(shape) - from_end, first.repeat)

    def _entry(self, node: fx.Node, at: _At | None, index: Any) -> None:
        """One number of a shape is read, which is harmless for all dimensions but that of the channels."""
        if at is not None and node.users and (not isinstance(index, int) or index < 0 or index == at.axis):
            at.group.fix(f"{node.name!r} reads its width as a number")

    # --- small parts

    def _tie(self, a: _Open, b: _Open) -> None:
        a, b = a.last(), b.last()
        if a is b:
            return
        if b.producers and list(self.made).index(b.producers[0]) < list(self.made).index(a.producers[0]):
            a, b = b, a
        a.producers += b.producers
        a.channelwise += b.channelwise
        a.readers |= b.readers
        a.fixed = a.fixed or b.fixed
        b.into = a

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(self.shapes[node.name])

    def _first(self, node: fx.Node) -> _At | None:
        given = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
        return self.at.get(given) if isinstance(given, fx.Node) else None


def _fix(places: Sequence[_At], reason: str) -> None:
    for at in places:
        at.group.fix(reason)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [x for v in value for x in _flat(v)]
    return [value]
