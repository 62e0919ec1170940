"""Layers that a network may gain: identities behind its activations, until neurons are chosen for them."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from pcl.models.growth.graph import Group, WidthGraph
from pcl.models.growth.operations import POINTWISE_MODULES
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.residual_layer import ResidualLayer

_KERNEL = 3  # of convolutions in new layers (Sec. 5.3.2)
_NO_ACTIVATIONS = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.AlphaDropout)


@dataclass(frozen=True)
class Offer:
    """A new layer behind an activation of an nn.Sequential.

    The activation at ``key`` of ``parent`` makes room for nn.Sequential(activation, layer), so that the names of all
    other layers stay.

    Args:
        parent, key: where.
        activation: what stood there before.
        layer: the identity that is offered.
        name: of the layer, in the model.
        behind: the layer that makes the channels which it reads, None where they are no group's.
    """

    parent: nn.Sequential
    key: str
    activation: nn.Module
    layer: ResidualLayer
    name: str
    behind: str | None

    @property
    def hidden(self) -> str:
        """The group of its hidden neurons."""
        return f"{self.name}.inner"

    def insert(self) -> None:
        """Put it into the network, in the mode of the activation."""
        self.parent._modules[self.key] = nn.Sequential(self.activation, self.layer).train(self.activation.training)

    def take_away(self) -> None:
        """Leave the network as it was."""
        self.parent._modules[self.key] = self.activation


class Offers:
    """New layers behind all activations of an nn.Sequential that give vectors ``(B, C)`` or images ``(B, C, H, W)``.

    Args:
        model: the network, which stays as it is until they are inserted.
        graph: its graph.
        pointwise: types of modules of one's own that are activations too.
    """

    def __init__(self, model: nn.Module, graph: WidthGraph, pointwise: Sequence[type[nn.Module]] = ()) -> None:
        self.model = model
        self.offers = _offers(model, graph, pointwise)

    @property
    def hidden(self) -> list[str]:
        """The groups of their hidden neurons."""
        return [offer.hidden for offer in self.offers]

    def insert(self) -> None:
        """Put all into the network."""
        for offer in self.offers:
            offer.insert()

    def keep(self, groups: Collection[str], optimizer: torch.optim.Optimizer | None) -> None:
        """Leave in the network those whose hidden group is named, and let the optimizer train them."""
        for offer in self.offers:
            if offer.hidden not in groups:
                offer.take_away()
            elif optimizer is not None:
                _enlist(optimizer, offer, self.model)
        self.offers = [offer for offer in self.offers if offer.hidden in groups]

    def undo(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Leave network and optimizer as they were."""
        own = {id(p) for offer in self.offers for p in offer.layer.parameters()}
        for offer in self.offers:
            offer.take_away()
        for group in [] if optimizer is None else optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]


def of_group(growth: GroupGrowth, group: Group) -> GroupGrowth:
    """What a group gains, without the layers that were offered and not taken."""
    layers = {*group.producers, *group.channelwise, *(reader.layer for reader in group.readers)}
    kept: dict[str, Any] = {}
    for field in fields(growth):
        value = getattr(growth, field.name)
        if isinstance(value, dict):
            kept[field.name] = {name: tensors for name, tensors in value.items() if name in layers}
    return replace(growth, **kept)


def _offers(model: nn.Module, graph: WidthGraph, pointwise: Sequence[type[nn.Module]]) -> list[Offer]:
    found = {}
    for node in graph.module.graph.nodes:
        parent_name, _, key = str(node.target).rpartition(".")
        parent = model.get_submodule(parent_name) if node.op == "call_module" else None
        activation = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        shape = tuple(graph.shapes.get(node.name, ()))
        if not isinstance(parent, nn.Sequential) or activation is None or len(shape) not in (2, 4):
            continue
        if not isinstance(activation, (*POINTWISE_MODULES, *pointwise)) or isinstance(activation, _NO_ACTIVATIONS):
            continue
        kernel = None if len(shape) == 2 else _KERNEL
        layer = ResidualLayer(shape[1], 0, kernel, copy.deepcopy(activation))
        at = graph.channels.get(node.name)
        like = next(model.parameters(), torch.empty(0))
        layer.to(like.device, like.dtype)
        name = f"{node.target}.1"
        found[name] = Offer(parent, key, activation, layer, name, None if at is None else at.group)
    return list(found.values())


def _enlist(optimizer: torch.optim.Optimizer, offer: Offer, model: nn.Module) -> None:
    """Let the optimizer train the layer, with the settings of the layer that it stands behind, or else of the last."""
    groups = optimizer.param_groups
    before = [] if offer.behind is None else list(model.get_submodule(offer.behind).parameters())
    mine = [group for group in groups if any(p is q for p in group["params"] for q in before)]
    (mine or groups)[-1]["params"] += list(offer.layer.parameters())
