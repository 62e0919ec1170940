"""What a network may gain: every neuron's own step, and neurons that are not there yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pcl.models.growth.graph import Group, WidthGraph
from pcl.models.growth.plan import Rows
from pcl.randomness import generator

_SPREAD = 0.1  # standard deviation of the first directions and of new neurons (Sec. 5.3.1)


@dataclass
class GroupCandidates:
    """Candidates of one group of m neurons, m' of them new. All tensors but mirror, allowed and norms are trained.

    Args:
        group: the group.
        mirror: ``(m,)``, -1 where a neuron would split (its halves move by +epsilon delta and -epsilon delta), +1 where
            it would be copied (the copy moves by +epsilon delta).
        allowed: bool ``(m,)``, which neurons may do so.
        epsilon, epsilon_new: steps ``(m,)``, 0 where not allowed, and ``(m',)``.
        delta: directions by producer, in the shape of its rows; empty where no neuron is allowed to move.
        rows: incoming weights of the new neurons, by producer and depthwise layer.
        columns: outgoing weights of the new neurons by reader, ``(its outputs, m' * repeat, ...)``.
        norms: entries of the new neurons in BatchNorm and LayerNorm layers; see ``norms_new`` of
            :class:`pcl.models.growth.plan.GroupGrowth`.
    """

    group: Group
    mirror: Tensor
    allowed: Tensor
    epsilon: Tensor
    epsilon_new: Tensor
    delta: dict[str, Rows] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def new(self) -> int:
        """m'."""
        return len(self.epsilon_new)

    def trained(self) -> list[Tensor]:
        """The tensors that are trained."""
        old = [self.epsilon, *_tensors(self.delta)] if self.delta else []
        return [*old, *([self.epsilon_new, *_tensors(self.rows), *self.columns.values()] if self.new else [])]

    def lengths(self) -> Tensor:
        """|delta_i| of the old neurons, over all producers, if they may move; then those of the new ones, over what
        comes in and what goes out: ``(m + m',)`` or ``(m',)``."""
        old = [_squares(t) for t in _tensors(self.delta)]
        new = [_squares(t) for t in (*_tensors(self.rows), *map(self._by_neuron, self.columns.values()))]
        return torch.cat([torch.stack(part).sum(0) for part in (old, new) if part]).sqrt()

    def steps(self) -> Tensor:
        """The epsilons in the order of :meth:`lengths`."""
        return torch.cat([*([self.epsilon] if self.delta else []), *([self.epsilon_new] if self.new else [])])

    @torch.no_grad()
    def project(self, step: float) -> None:
        """Shorten what is longer than Eq. 5.4 allows: |delta_i| <= 1 and |epsilon_i| <= step."""
        self.epsilon.clamp_(-step, step)
        self.epsilon_new.clamp_(-step, step)
        shorter = 1 / self.lengths().clamp(min=1)
        new = shorter[len(shorter) - self.new :]
        for parts, factor in ((_tensors(self.delta), shorter[: len(shorter) - self.new]), (_tensors(self.rows), new)):
            for t in parts:
                t.mul_(factor.view(-1, *[1] * (t.dim() - 1)))
        for t in map(self._by_neuron, self.columns.values()):
            t.mul_(new.view(-1, *[1] * (t.dim() - 1)))

    def _by_neuron(self, columns: Tensor) -> Tensor:
        """``(out, m' * repeat, ...)`` as ``(m', out, repeat, ...)``, a view."""
        by_neuron: Tensor = columns.unflatten(1, (self.new, -1)).transpose(0, 1)
        return by_neuron


class Candidates:
    """The candidates of all groups of a network that may grow, to be trained while the network's own weights rest.

    Args:
        graph: of the network.
        groups: names of the groups that may grow; None: all whose width can change.
        new: m', how many new neurons every group is offered; or a number by group.
        split: whether old neurons may split.
        mirror: by group, ``(m,)``: -1 (split) or +1 (copy) for every neuron; -1 where a group is not named.
        allowed: by group, bool ``(m,)``: which neurons may split or be copied; all where a group is not named.
        step: epsilon, the largest step; all steps start there.
        seed: of the first directions and weights, which are drawn from N(0, 0.1^2), and shortened to norm 1 where
            they are longer. Draws depend on the seed, the group's name and the widths of the network alone.

    Attributes:
        groups: :class:`GroupCandidates` by name of the group.

    Raises:
        ValueError: for a group that is not there or cannot grow, or a mirror or allowed of another shape.

    Source: Bo Liu's dissertation (2025), Sec. 5.2.2 (split, new), 5.2.4 (copy).
    """

    def __init__(
        self,
        graph: WidthGraph,
        *,
        groups: Sequence[str] | None = None,
        new: int | Mapping[str, int] = 8,
        split: bool = True,
        mirror: Mapping[str, Tensor] | None = None,
        allowed: Mapping[str, Tensor] | None = None,
        step: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.step = step
        self.groups: dict[str, GroupCandidates] = {}
        wanted = [graph.group(name) for name in (graph.growable() if groups is None else groups)]
        for given, what in ((mirror, "mirror"), (allowed, "allowed")):
            for name, value in (given or {}).items():
                width = graph.group(name).width
                if value.shape != (width,):
                    raise ValueError(f"{what}: expected shape ({width},) for group {name!r}, got {tuple(value.shape)}")
        for name, value in (mirror or {}).items():
            if not bool((value.abs() == 1).all()):
                raise ValueError(f"mirror: expected -1 (split) and +1 (copy) alone for group {name!r}, got {value}")
        for group in wanted:
            like = _layer(graph, group.producers[0]).weight
            may = (allowed or {}).get(group.name, torch.full((group.width,), split)).to(like.device)
            flip = (mirror or {}).get(group.name, -torch.ones(group.width)).to(like)
            count = new if isinstance(new, int) else new.get(group.name, 0)
            if may.any() or count:
                self.groups[group.name] = _drawn(graph, group, flip, may.bool(), count, step, seed)
        self.project()

    def trained(self) -> list[Tensor]:
        """All tensors to be trained."""
        return [t for candidates in self.groups.values() for t in candidates.trained()]

    def penalty(self) -> Tensor:
        """sum_i max(0, |delta_i| - 1)^2 + sum_i max(0, |epsilon_i| - step)^2, the penalty form of Eq. 5.4."""
        over = [c.lengths() - 1 for c in self.groups.values()]
        over += [c.steps().abs() - self.step for c in self.groups.values()]
        return torch.cat(over).clamp(min=0).square().sum()

    def project(self) -> None:
        """Shorten what is longer than Eq. 5.4 allows: |delta_i| <= 1 and |epsilon_i| <= step."""
        for candidates in self.groups.values():
            candidates.project(self.step)


def _drawn(
    graph: WidthGraph, group: Group, mirror: Tensor, allowed: Tensor, new: int, step: float, seed: int
) -> GroupCandidates:
    like = mirror
    widths = [graph.groups[name].width for name in graph.growable()]  # others after every growth
    draws = generator(seed, "firefly", group.name, *widths)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=draws, dtype=torch.float64) * _SPREAD
        return values.to(like).requires_grad_()

    def rows(layer: Any, count: int) -> Rows:
        return draw(count, *layer.weight.shape[1:]), None if layer.bias is None else draw(count)

    found = GroupCandidates(
        group,
        mirror,
        allowed,
        (step * allowed.to(like)).requires_grad_(),
        torch.full((new,), step).to(like).requires_grad_(),
    )
    if allowed.any():
        found.delta = {name: rows(_layer(graph, name), group.width) for name in group.producers}
    if not new:
        return found
    layers = [*group.producers, *group.channelwise]
    found.rows = {n: rows(_layer(graph, n), new) for n in layers if isinstance(_layer(graph, n), nn.Linear | nn.Conv2d)}
    for reader in group.readers:
        weight = _layer(graph, reader.layer).weight
        found.columns[reader.layer] = draw(len(weight), new * reader.repeat, *weight.shape[2:])
    for name in group.channelwise:
        found.norms[name] = {key: value.to(like) for key, value in _fresh(_layer(graph, name), new).items()}
    return found


def _fresh(layer: Any, new: int) -> dict[str, Tensor]:
    """Entries of new neurons in a normalisation, as a layer starts; running statistics are measured later."""
    entries = {"weight": torch.ones(new), "bias": torch.zeros(new), "running_var": torch.ones(new)}
    entries["running_mean"] = torch.zeros(new)
    return (
        {}
        if isinstance(layer, nn.Conv2d)
        else {k: v for k, v in entries.items() if getattr(layer, k, None) is not None}
    )


def _layer(graph: WidthGraph, name: str) -> Any:
    return graph.module.get_submodule(name)


def _tensors(layers: Mapping[str, Rows]) -> list[Tensor]:
    return [t for pair in layers.values() for t in pair if t is not None]


def _squares(t: Tensor) -> Tensor:
    """Per row."""
    return t.flatten(1).square().sum(1) if t.dim() > 1 else t.square()
