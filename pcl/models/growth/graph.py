"""Which widths of a network are tied: groups of channels, the layers that make them and the layers that read them."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from pcl.models.growth.groups import Channels, Group, Reader
from pcl.models.growth.ties import Ties
from pcl.models.modes import evaluation_mode

__all__ = ["Channels", "Group", "Reader", "WidthGraph"]


class WidthGraph:
    """The widths of a network and what ties them, found by tracing it once (torch.fx) and following its channels.

    A group begins at a Linear or Conv2d and ends at the layers of these kinds that read it. On the way it may pass what
    acts on each channel by itself: BatchNorm, LayerNorm over the channels, depthwise Conv2d, pointwise activations and
    arithmetic, dropout, pooling, means over positions, flatten. Additions and other arithmetic between two tensors tie
    their groups. What passes anything else has a fixed width, with the reason in words, and so have inputs and outputs
    of the network.

    Args:
        model: any module that torch.fx can trace: modules may be nested and of one's own, but no branch may depend on
            the values of tensors.
        example: an input, or a tuple of all inputs.
        pointwise: types of modules of one's own that act on every number by itself and have no parameters; they are
            not traced into. Those written in pointwise operations of torch need not be named.

    Attributes:
        groups: all groups by name, in the order in which the network makes them, those with a fixed width included.
        module: the traced network, which shares its layers with the model.
        channels: by the name of a node of the traced network, where its value has the channels of which group.
        shapes: by the name of a node, the shape of its value for the example.

    Raises:
        ValueError: if the network cannot be traced or run, naming the layer.
    """

    def __init__(
        self, model: nn.Module, example: Tensor | tuple[Any, ...], *, pointwise: Sequence[type[nn.Module]] = ()
    ) -> None:
        inputs = example if isinstance(example, tuple) else (example,)
        with evaluation_mode(model):
            self.module = _traced(model, tuple(pointwise))
            self.shapes = _shapes(self.module, inputs)
        ties = Ties(self.module, self.shapes, tuple(pointwise))
        self.groups = ties.groups()
        self.channels = ties.channels()

    def group(self, name: str) -> Group:
        """The group of that name, if its width can change.

        Raises:
            ValueError: if there is none, or its width is fixed, saying why.
        """
        if name not in self.groups:
            raise ValueError(f"no group is called {name!r}; there are {', '.join(self.groups) or 'none'}")
        group = self.groups[name]
        if group.fixed is not None:
            raise ValueError(f"the width of {name!r} is fixed: {group.fixed}")
        return group

    def growable(self) -> list[str]:
        """Names of the groups whose width can change."""
        return [name for name, group in self.groups.items() if group.fixed is None]


class _Tracer(fx.Tracer):
    """Goes into every module but those of torch and those that are declared pointwise."""

    def __init__(self, pointwise: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.pointwise = pointwise
        self.inside: list[str] = []  # names of the modules that are being traced; stays as it was when one fails

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # types derived from these too: a layer with a parametrised weight is of a type of its own
        known = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, *self.pointwise)
        return isinstance(m, known) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.inside.append(self.path_of_module(m))
        out = super().call_module(m, forward, args, kwargs)
        self.inside.pop()
        return out


def _traced(model: nn.Module, pointwise: tuple[type[nn.Module], ...]) -> fx.GraphModule:
    tracer = _Tracer(pointwise)
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the model's own code raises when it meets a stand-in for a tensor
        where = repr(tracer.inside[-1]) if tracer.inside else f"the forward of {type(model).__name__}"
        raise ValueError(
            f"the network cannot be traced, it stops in {where}: {_said(error)}. Growing needs a forward whose path "
            "does not depend on values; name a module that acts on every number by itself in `pointwise`"
        ) from error
    return fx.GraphModule(model, graph)  # with all its nodes: one whose value nobody uses may work in place


def _said(error: Exception) -> str:
    """What an error says, without the lines on its node that torch.fx puts behind it."""
    return re.split(r"\n+While executing ", str(error))[0].rstrip(".\n")


class _Shapes(fx.Interpreter):
    """Runs a network and keeps the shape of every tensor."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, torch.Size] = {}
        self.at = ""

    def run_node(self, n: fx.Node) -> Any:
        self.at = str(n.target)
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n.name] = value.shape
        return value


def _shapes(module: fx.GraphModule, inputs: tuple[Any, ...]) -> dict[str, torch.Size]:
    run = _Shapes(module)
    try:
        with torch.no_grad():
            run.run(*inputs)
    except Exception as error:
        raise ValueError(f"the network does not run on the example, it stops at {run.at!r}: {_said(error)}") from error
    return run.shapes
