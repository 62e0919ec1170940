"""Which candidates are taken, and what the network gains by them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcl.models.growth.candidates import Candidates, GroupCandidates
from pcl.models.growth.graph import WidthGraph
from pcl.models.growth.plan import GroupGrowth, Rows
from pcl.models.growth.sizes import Sizes
from pcl_kernels import firefly_select

#: scores of old (m,) and new (m',) neurons, by group
Scores = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Budget:
    """What one growth may add. None: no limit; at least one limit is needed.

    Args:
        neurons: new neurons of all groups together (eta_0 of Eq. 5.7); a split, a copy and a new neuron are one each.
        layers: new layers (eta_1).
        parameters: parameters of the grown network more than before.
        flops: FLOPs of one sample's forward pass more than before, a multiplication and an addition counting as two.

    Raises:
        ValueError: if no limit is given, or one below 0.
    """

    neurons: int | None = None
    layers: int | None = None
    parameters: int | None = None
    flops: int | None = None

    def __post_init__(self) -> None:
        limits = vars(self)
        if all(value is None for value in limits.values()):
            raise ValueError("Budget: give at least one of neurons, layers, parameters, flops")
        for name, value in limits.items():
            if value is not None and value < 0:
                raise ValueError(f"Budget: {name}: expected a number from 0 on, got {value}; None is no limit")


@torch.no_grad()
def steps_taken(
    c: GroupCandidates, old: Tensor, new: Tensor, step: float, *, free: bool = True
) -> tuple[Tensor, Tensor]:
    """epsilon^ of every candidate, were it taken, from scores s (Eq. 5.6).

    A new neuron or a copy may go either way: -step sign(s). A split is even in epsilon, its halves only change places,
    so that no sign lowers the loss if s epsilon > 0 does not: it has the step at which it was scored. Unless ``free``,
    so have all.
    """
    if not free:
        return c.epsilon * c.allowed, c.epsilon_new.clone()
    either = -step * old.sign().to(c.epsilon)
    return torch.where(c.mirror == 1, either, c.epsilon) * c.allowed, -step * new.sign().to(c.epsilon_new)


@torch.no_grad()
def gains(c: GroupCandidates, old: Tensor, new: Tensor, step: float, *, free: bool = True) -> Tensor:
    """By how much every candidate, old ones first, is predicted to lower the loss, float64 ``(m + m',)``.

    step |s| for a new neuron or a copy. max(0, -epsilon s) for a split: one whose score is positive at its step raises
    the loss with either sign, so that |s| of Eq. 5.6 must not choose it. Unless ``free``, max(0, -epsilon s) for all.
    """
    split = (-c.epsilon.double() * old).clamp(min=0)
    if not free:
        return torch.cat([split * c.allowed, (-c.epsilon_new.double() * new).clamp(min=0)])
    return torch.cat([torch.where(c.mirror == 1, step * old.abs(), split) * c.allowed, step * new.abs()])


def turned(c: GroupCandidates, old: Tensor, new: Tensor, step: float) -> Tensor:
    """Which candidates would go against the step at which they were scored, bool ``(m + m',)``."""
    at = torch.cat([c.epsilon, c.epsilon_new]).detach()
    return torch.cat(steps_taken(c, old, new, step)) * at < 0


def choose(graph: WidthGraph, candidates: Candidates, gain: Mapping[str, Tensor], budget: Budget) -> dict[str, Tensor]:
    """Bool ``(m + m',)`` by group: the candidates of largest gain that the budget has room for.

    A group without neurons is a new layer, and gets at least two neurons or none (Sec. 5.3.2). Costs in parameters or
    FLOPs are linear at first, what one neuron more costs at the present widths; then fewer and fewer are taken until
    the exact numbers of the grown network fit.
    """
    sizes = Sizes(graph)
    groups = candidates.groups
    count = sizes.flops if budget.parameters is None else sizes.parameters
    limit = budget.flops if budget.parameters is None else budget.parameters
    cost, layer, layers = [], [], 0
    for name, c in groups.items():
        one = count({name: c.group.width + 1}) - count({})
        cost.append(torch.full((len(gain[name]),), one))
        layer.append(torch.full((len(gain[name]),), -1 if c.group.width else layers))
        layers += c.group.width == 0
    lengths = [len(gain[name]) for name in groups]
    merged = [torch.cat([part.cpu() for part in parts]) for parts in ([gain[n] for n in groups], cost, layer)]

    def taken(neurons: int | None) -> dict[str, Tensor]:
        left = merged[0].clone()
        while True:
            picked = firefly_select(left, *merged[1:], neurons=neurons, layers=budget.layers, budget=limit)
            chosen = dict(zip(groups, picked.split(lengths), strict=True))
            lonely = [name for name, part in chosen.items() if not groups[name].group.width and part.sum() == 1]
            if not lonely:
                return chosen
            for name, part in zip(groups, left.split(lengths), strict=True):
                if name in lonely:
                    part.zero_()  # another candidate gets the room

    def fits(chosen: dict[str, Tensor]) -> bool:
        widths = {name: groups[name].group.width + int(part.sum()) for name, part in chosen.items()}
        more = [sizes.parameters(widths) - sizes.parameters({}), sizes.flops(widths) - sizes.flops({})]
        limits = [budget.parameters, budget.flops]
        return all(limit is None or found <= limit for found, limit in zip(more, limits, strict=True))

    chosen = taken(budget.neurons)
    if fits(chosen):
        return chosen
    low, high = 0, sum(int(part.sum()) for part in chosen.values())  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(taken(middle)) else (low, middle)
    return taken(low)


@torch.no_grad()
def planned(
    graph: WidthGraph, candidates: Candidates, scores: Scores, chosen: Mapping[str, Tensor], *, free: bool = True
) -> dict[str, GroupGrowth]:
    """What every group gains by the chosen candidates, see :func:`steps_taken`; groups that gain nothing are left
    out."""
    plan = {}
    for name, c in candidates.groups.items():
        pick = chosen[name].to(c.epsilon.device)
        if not pick.any():
            continue
        old, new = steps_taken(c, *scores[name], candidates.step, free=free)
        moved = pick[: len(old)].nonzero()[:, 0]
        split, copied = (moved[c.mirror[moved] == sign] for sign in (-1, 1))
        fresh = pick[len(old) :].nonzero()[:, 0]
        growth = GroupGrowth(split, copied, len(fresh))
        if len(moved):
            layers = {producer: graph.module.get_submodule(producer) for producer in c.group.producers}
            growth.rows_plus = {n: _moved(layers[n], c.delta[n], split, old) for n in layers}
            growth.rows_minus = {n: _moved(layers[n], c.delta[n], split, -old) for n in layers}
            growth.rows_copied = {n: _moved(layers[n], c.delta[n], copied, old) for n in layers}
        growth.rows_new = {n: (w[fresh], None if b is None else b[fresh]) for n, (w, b) in c.rows.items()}
        for reader, columns in c.columns.items():
            by_neuron = columns.unflatten(1, (c.new, -1))[:, fresh]
            scaled = by_neuron * new[fresh].view(-1, *[1] * (by_neuron.dim() - 2))
            growth.columns_new[reader] = scaled.flatten(1, 2)
        growth.norms_new = {n: {k: v[fresh] for k, v in entries.items()} for n, entries in c.norms.items()}
        plan[name] = growth
    return plan


def _moved(layer: Any, delta: Rows, index: Tensor, step: Tensor) -> Rows:
    """Rows theta_i + step_i delta_i."""
    weight = layer.weight[index]
    direction, bias = delta
    moved = weight + step[index].view(-1, *[1] * (weight.dim() - 1)) * direction[index]
    return moved, None if bias is None else layer.bias[index] + step[index] * bias[index]
