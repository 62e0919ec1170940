"""Groups whose two halves can be averaged right behind the activation, in one pass over the pre-activations."""

from dataclasses import dataclass

from torch import fx, nn

from pcl.models.growth.graph import Group, WidthGraph
from pcl.models.growth.operations import name_of

_MODULES = {nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}
#: homogeneous and linear in every channel, so that the average of two halves may be taken before or behind
_LINEAR_MODULES = (nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
_LINEAR = {"avg_pool2d", "adaptive_avg_pool2d", "dropout", "dropout2d", "flatten", "view", "reshape", "mean", "sum"}


@dataclass(frozen=True)
class FastPath:
    """A producer, then perhaps a BatchNorm, then an activation that ``pcl_kernels.firefly_split`` knows; behind it
    nothing but what is linear in every channel."""

    norm: str | None
    activation: str


def fast_path(graph: WidthGraph, group: Group) -> tuple[FastPath, frozenset[str]] | None:
    """The fast path of a group, with the names of the nodes that it stands for; None where there is none."""
    nodes = [n for n in graph.module.graph.nodes if graph.channels.get(n.name, _NONE).group == group.name]
    node = nodes[0]  # the producer
    if len(group.producers) > 1 or graph.channels[node.name].axis != 1:
        return None
    norm, passed = None, []
    node = _only_user(node)
    layer = _module(graph, node)
    if node is not None and isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.track_running_stats:
        norm, passed = str(node.target), [node.name]
        node = _only_user(node)
    activation = _activation(graph, node)
    if node is None or activation is None:
        return None
    passed.append(node.name)
    behind = nodes[nodes.index(node) + 1 :]
    if len(nodes) != len(passed) + 1 + len(behind) or not all(_linear(graph, n) for n in behind):
        return None
    return FastPath(norm, activation), frozenset(passed)


class _NoChannels:
    group = ""


_NONE = _NoChannels()


def _only_user(node: fx.Node | None) -> fx.Node | None:
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _module(graph: WidthGraph, node: fx.Node | None) -> nn.Module | None:
    return graph.module.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _activation(graph: WidthGraph, node: fx.Node | None) -> str | None:
    if node is None:
        return None
    layer = _module(graph, node)
    name = _MODULES.get(type(layer)) if layer is not None else name_of(node)
    exact = getattr(layer, "approximate", node.kwargs.get("approximate", "none")) == "none"
    return name if name in _MODULES.values() and exact else None


def _linear(graph: WidthGraph, node: fx.Node) -> bool:
    layer = _module(graph, node)
    return isinstance(layer, _LINEAR_MODULES) if layer is not None else name_of(node) in _LINEAR
