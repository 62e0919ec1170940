"""Layers that a network may gain: identities behind its activations, until neurons are chosen for them."""

import copy
from collections.abc import Sequence
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
        """Put it into the network."""
        self.parent._modules[self.key] = nn.Sequential(self.activation, self.layer)

    def follow_mode(self) -> None:
        """Train, or not, as the activation does."""
        self.parent._modules[self.key].train(self.activation.training)

    def take_away(self) -> None:
        """Leave the network as it was."""
        self.parent._modules[self.key] = self.activation


def offers(model: nn.Module, graph: WidthGraph, pointwise: Sequence[type[nn.Module]] = ()) -> list[Offer]:
    """One behind every activation of an nn.Sequential that gives vectors ``(B, C)`` or images ``(B, C, H, W)``."""
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


def of_group(growth: GroupGrowth, group: Group) -> GroupGrowth:
    """What a group gains, without the layers that were offered and not taken."""
    layers = {*group.producers, *group.channelwise, *(reader.layer for reader in group.readers)}
    kept: dict[str, Any] = {}
    for field in fields(growth):
        value = getattr(growth, field.name)
        if isinstance(value, dict):
            kept[field.name] = {name: tensors for name, tensors in value.items() if name in layers}
    return replace(growth, **kept)


def enlist(optimizer: torch.optim.Optimizer, offer: Offer, model: nn.Module) -> None:
    """Let the optimizer train the layer, with the settings of the layer that it stands behind, or else of the last."""
    groups = optimizer.param_groups
    before = [] if offer.behind is None else list(model.get_submodule(offer.behind).parameters())
    mine = [group for group in groups if any(p is q for p in group["params"] for q in before)]
    (mine or groups)[-1]["params"] += list(offer.layer.parameters())


def strike_off(optimizer: torch.optim.Optimizer, offer: Offer) -> None:
    """Undo :func:`enlist`."""
    own = {id(p) for p in offer.layer.parameters()}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in own]
