"""Ways to make a network wider that do not look at the loss, as plans that the library carries out.

Each gains as many parameters in a growth as the others. Net2Net (Chen et al. 2016) copies neurons drawn at random in
every layer, the two share the outgoing weights, and the copy is moved a little. A random split moves both halves, in
opposite directions, and draws the neurons among those of all layers. New neurons have random incoming weights, and
outgoing ones as they start in the layer that reads them, times the step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcl.models.growth.graph import Group, WidthGraph
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.rebuild import rebuild
from studies.width_networks import layers_of

STEP = 0.1  # length of every move, and the largest step of Firefly


def net2net(model: nn.Module, group: Group, count: int, draws: torch.Generator) -> GroupGrowth:
    """Copies of ``count`` neurons."""
    chosen = torch.randperm(group.width, generator=draws)[:count]
    plan = GroupGrowth(split=chosen)
    for name in group.producers:
        plan.rows_minus[name] = _moved(model.get_submodule(name), chosen, STEP, draws)[0]
    return plan


def random_split(model: nn.Module, group: Group, count: int, draws: torch.Generator) -> GroupGrowth:
    """Splits of ``count`` neurons."""
    chosen = torch.randperm(group.width, generator=draws)[:count]
    plan = GroupGrowth(split=chosen)
    for name in group.producers:
        plan.rows_plus[name], plan.rows_minus[name] = _moved(model.get_submodule(name), chosen, STEP, draws)
    return plan


def new_neurons(model: nn.Module, group: Group, count: int, draws: torch.Generator) -> GroupGrowth:
    """``count`` new ones."""
    plan = GroupGrowth(new=count)
    for name in (*group.producers, *group.channelwise):
        layer: Any = model.get_submodule(name)
        if isinstance(layer, nn.BatchNorm2d):
            ones, zeros = layer.weight.new_ones(count), layer.weight.new_zeros(count)
            plan.norms_new[name] = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones}
        else:
            plan.rows_new[name] = (_first(layer, (count, *layer.weight.shape[1:]), draws), None)
    for reader in group.readers:
        layer = model.get_submodule(reader.layer)
        shape = (len(layer.weight), count * reader.repeat, *layer.weight.shape[2:])
        plan.columns_new[reader.layer] = STEP * _first(layer, shape, draws)
    return plan


def _first(layer: Any, shape: tuple[int, ...], draws: torch.Generator) -> Tensor:
    """As the weights of torch's layers start: uniform within 1 / sqrt(inputs of a neuron)."""
    bound = layer.weight[0].numel() ** -0.5
    return (bound * (2 * torch.rand(shape, generator=draws) - 1)).to(layer.weight)


def _moved(layer: Any, chosen: Tensor, step: float, draws: torch.Generator) -> tuple[Any, Any]:
    """Rows of the chosen neurons, moved by the step along random directions, and against them."""
    rows = layer.weight.detach()[chosen]
    directions = torch.randn(rows.shape, generator=draws).to(rows).flatten(1)
    offset = step * (directions / directions.norm(dim=1, keepdim=True)).view_as(rows)
    return (rows + offset, None), (rows - offset, None)


Widen = Callable[[nn.Module, Group, int, torch.Generator], GroupGrowth]

WAYS: dict[str, Widen] = {"Net2Net": net2net, "random split": random_split, "new neurons": new_neurons}


def widen(
    model: nn.Sequential,
    optimizer: torch.optim.Optimizer,
    way: str,
    widths: Sequence[int],
    example: Tensor,
    draws: torch.Generator,
) -> None:
    """To these widths, in place, the optimizer's state too."""
    groups = WidthGraph(model, example).groups
    plan = {}
    for name, width in zip(layers_of(model), widths, strict=True):
        if width > groups[name].width:
            plan[name] = WAYS[way](model, groups[name], width - groups[name].width, draws)
    rebuild(model, groups, plan, optimizer)
