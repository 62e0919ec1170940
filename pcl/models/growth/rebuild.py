"""The network that a growth ends with: plain layers, with the optimizer's state of the old ones.

Every tensor of the network and of the optimizer that a growth touches is made by one call of
:func:`pcl_kernels.firefly_apply`; everything is checked before, so that an error leaves all as it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcl.models.growth.follow import Follow, chosen, grown
from pcl.models.growth.graph import Group
from pcl.models.growth.moments import MEAN_SQUARES, hand_over, moments_of
from pcl.models.growth.norms import WeightedLayerNorm, uniform
from pcl.models.growth.plan import GroupGrowth
from pcl.models.growth.residual_layer import EmptyableConv2d
from pcl_kernels import firefly_apply


@torch.no_grad()
def rebuild(
    model: nn.Module,
    groups: Mapping[str, Group],
    plan: Mapping[str, GroupGrowth],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Give groups of neurons what they gain, in place.

    Modules keep their identity; tensors that grow are new. An nn.LayerNorm over a group that grows becomes a
    :class:`WeightedLayerNorm`. The optimizer's groups keep their order, and its state follows: the two halves of a
    split see half of the old gradient each, so their incoming weights have 1/2 of a first moment and 1/4 of a second;
    outgoing weights see the old gradient, and copies too, and have the moments of the old ones; new neurons start from
    0, but for running means of squared gradients, which start from the mean over the tensor: step counters stay, so
    that from 0 Adam would divide by a mean that nothing corrects any more, and take steps of up to seven times its
    rate.

    Args:
        model: the network.
        groups: its groups, by name.
        plan: by group, what it gains; groups that are not named stay.
        optimizer: of the model's parameters, or of some.

    Raises:
        ValueError: for a group that is not known, is fixed or has another width than it says; for tensors of the plan
            that are missing or of another shape, dtype or device; for weights that are parametrized or shared with
            another layer; for optimizer state of which it is not known how it follows. Nothing has changed then.

    Source: Liu, dissertation, Sec. 5.2.2, Eq. 5.3, and Sec. 5.2.4, Eq. 5.9.
    """
    follows: dict[str, Follow] = {}
    for name, growth in plan.items():
        group = _group(groups, name)
        if growth.gained():
            follows[name] = grown(group, growth, _device(model, group))
    _Rebuilding(model, groups, follows, optimizer).run()


@torch.no_grad()
def select_neurons(model: nn.Module, groups: Mapping[str, Group], keep: Mapping[str, Tensor]) -> None:
    """Leave only some neurons in place of all, in place: for the plain network of one task.

    Shares of the channels in a :class:`WeightedLayerNorm` are brought to the sum 1 again.

    Args:
        model: the network.
        groups: its groups, by name.
        keep: by group, the neurons that stay: int64 ``(k,)`` in the order that they shall have, or bool ``(m,)``.

    Raises:
        ValueError: as :func:`rebuild`; for indices out of range or twice; if no neuron is left to a layer that cannot
            run without one.
    """
    follows: dict[str, Follow] = {}
    for name, kept in keep.items():
        group = _group(groups, name)
        follows[name] = chosen(group, kept, _device(model, group))
    _Rebuilding(model, groups, follows, None).run()


def _group(groups: Mapping[str, Group], name: str) -> Group:
    if name not in groups:
        raise ValueError(f"no group is called {name!r}; there are {', '.join(groups) or 'none'}")
    if groups[name].fixed is not None:
        raise ValueError(f"the width of {name!r} is fixed: {groups[name].fixed}")
    return groups[name]


def _device(model: nn.Module, group: Group) -> torch.device:
    return next(model.get_submodule(group.producers[0]).parameters()).device


@dataclass
class _Change:
    """A tensor of a layer, or of the optimizer, that is made anew; see :func:`firefly_apply`."""

    layer: nn.Module
    name: str  # in the layer
    tensor: Tensor
    moment: str | None = None  # name in the optimizer's state
    rows: Tensor | None = None
    columns: Tensor | None = None
    extra_rows: Tensor | None = None
    extra_columns: Tensor | None = None
    row_scale: Tensor | None = None
    column_scale: Tensor | None = None


@dataclass
class _Rebuilding:
    """Collects all changes, then makes them."""

    model: nn.Module
    groups: Mapping[str, Group]
    follows: Mapping[str, Follow]
    optimizer: torch.optim.Optimizer | None
    changes: list[_Change] = field(default_factory=list)

    def run(self) -> None:
        rows, columns, channelwise = self._roles()
        for name in dict.fromkeys([*rows, *columns]):
            self._layer(name, rows.get(name), columns.get(name))
        for name, follow in channelwise.items():
            layer = self._checked(name)
            if isinstance(layer, nn.Conv2d):
                self._depthwise(name, layer, follow)
            else:
                self._norm(name, layer, follow)
        self._refuse_shared()
        self._apply()

    def _roles(self) -> tuple[dict[str, Follow], dict[str, tuple[Follow, int]], dict[str, Follow]]:
        """Layers whose rows follow a group, those whose columns do (with their repeat), and those of channels."""
        rows: dict[str, Follow] = {}
        columns: dict[str, tuple[Follow, int]] = {}
        channelwise: dict[str, Follow] = {}
        for name, follow in self.follows.items():
            group = self.groups[name]
            rows |= dict.fromkeys(group.producers, follow)
            columns |= {reader.layer: (follow, reader.repeat) for reader in group.readers}
            channelwise |= dict.fromkeys(group.channelwise, follow)
        return rows, columns, channelwise

    def _checked(self, name: str) -> nn.Module:
        layer = self.model.get_submodule(name)
        kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
        if not isinstance(layer, kinds):
            raise ValueError(f"{name!r}, a {type(layer).__name__}, cannot be rebuilt; expected one of " + _names(kinds))
        if parametrize.is_parametrized(layer):
            raise ValueError(f"{name!r} is parametrized: take that off while it is rebuilt, and put it on again after")
        return layer

    # --- one layer

    def _layer(self, name: str, rows: Follow | None, columns: tuple[Follow, int] | None) -> None:
        """A Linear or Conv2d."""
        layer: Any = self._checked(name)
        weight = layer.weight
        if not isinstance(layer, nn.Linear | nn.Conv2d) or getattr(layer, "groups", 1) != 1:
            raise ValueError(f"{name!r} makes or reads a group: expected a Linear, or a Conv2d that is not grouped")
        change = _Change(layer, "weight", weight)
        parents = None  # of the extra rows
        if rows is not None:
            rows.check_width(name, "outputs", len(weight))
            change.rows, change.extra_rows, parents = rows.rows_of(name, weight, bias=False)
            if layer.bias is not None:
                index, extra, _ = rows.rows_of(name, layer.bias, bias=True)
                self._add(_Change(layer, "bias", layer.bias, rows=index, extra_rows=extra), rows, None)
        if columns is not None:
            follow, repeat = columns
            follow.check_width(name, "inputs", weight.shape[1], repeat)
            change.columns, change.column_scale = follow.columns(repeat)
            right = follow.columns_of(name, weight, repeat)
            if right is not None and parents is not None:  # halves and copies read new neurons as their old row does
                right = torch.cat([right, *firefly_apply([right], parents)])
            change.extra_columns = right
        if not isinstance(layer, nn.Linear | EmptyableConv2d):
            for followed in (rows, columns[0] if columns else None):
                _refuse_empty(name, followed)
        self._add(change, rows, columns)

    def _depthwise(self, name: str, layer: nn.Conv2d, follow: Follow) -> None:
        if not layer.groups == layer.in_channels == layer.out_channels:
            raise ValueError(f"{name!r} stands between neurons and their readers: expected a depthwise Conv2d")
        follow.check_width(name, "channels", len(layer.weight))
        _refuse_empty(name, follow)
        if follow.growth.new and name not in follow.growth.rows_new:
            raise ValueError(
                f"{follow.group.name!r} gains {follow.growth.new} new neurons, but rows_new lacks {name!r}"
            )
        for key, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            if tensor is not None:
                index, extra, _ = follow.rows_of(name, tensor, bias=key == "bias")
                self._add(_Change(layer, key, tensor, rows=index, extra_rows=extra), follow, None)

    def _norm(self, name: str, layer: nn.Module, follow: Follow) -> None:
        """BatchNorm or LayerNorm."""
        width = layer.normalized_shape[0] if isinstance(layer, nn.LayerNorm) else layer.num_features
        follow.check_width(name, "channels", int(width))  # type: ignore[arg-type]
        _refuse_empty(name, follow)
        for key in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(layer, key, None)
            if tensor is not None:
                index, extra = follow.entries_of(name, key, tensor)
                self._add(_Change(layer, key, tensor, rows=index, extra_rows=extra), follow, None)
        if isinstance(layer, WeightedLayerNorm) or (isinstance(layer, nn.LayerNorm) and follow.growth.gained()):
            shares = layer.weights if isinstance(layer, WeightedLayerNorm) else uniform(layer).to(follow.old.device)
            index, scale = follow.shares()
            self.changes.append(_Change(layer, "weights", shares, rows=index, row_scale=scale))

    def _add(self, change: _Change, rows: Follow | None, columns: tuple[Follow, int] | None) -> None:
        """A tensor of a layer, and what the optimizer remembers of it."""
        self.changes.append(change)
        parameter = change.tensor
        if not isinstance(parameter, nn.Parameter):
            return
        for key, degree in moments_of(self.optimizer, parameter, self._name_of(change)).items():
            assert self.optimizer is not None
            moment = _Change(change.layer, change.name, self.optimizer.state[parameter][key], key)
            if rows is not None:
                moment.rows, moment.row_scale = rows.old, rows.part_of_moment(degree)
            if columns is not None:
                moment.columns = columns[0].old_columns(columns[1])
            if key in MEAN_SQUARES:
                _start_from_mean(moment)
            self.changes.append(moment)

    # --- all

    def _name_of(self, change: _Change) -> str:
        path = next(name for name, module in self.model.named_modules() if module is change.layer)
        return f"{path}.{change.name}"

    def _refuse_shared(self) -> None:
        """A tensor that another layer has too would grow here and not there."""
        changed = {id(c.tensor): c for c in self.changes if isinstance(c.tensor, nn.Parameter)}
        for path, module in self.model.named_modules():
            for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                change = changed.get(id(parameter))
                if change is not None and (module is not change.layer or key != change.name):
                    raise ValueError(
                        f"{self._name_of(change)!r} is shared with '{path}.{key}': a tensor of two layers cannot grow"
                    )

    def _apply(self) -> None:
        fields = ("rows", "columns", "extra_rows", "extra_columns", "row_scale", "column_scale")
        lists: dict[str, Any] = {name: [getattr(change, name) for change in self.changes] for name in fields}
        made = firefly_apply([change.tensor for change in self.changes], **lists)
        moments: dict[nn.Parameter, dict[str, Tensor]] = {}
        for change, tensor in zip(self.changes, made, strict=True):
            if change.moment is not None:
                parameter = getattr(change.layer, change.name)  # still the old one
                moments.setdefault(parameter, {})[change.moment] = _in_memory_order_of(change.tensor, tensor)
        for change, tensor in zip(self.changes, made, strict=True):
            if change.moment is not None:
                continue
            if isinstance(change.tensor, nn.Parameter):
                value = _in_memory_order_of(change.tensor, tensor)
                new = nn.Parameter(value, requires_grad=change.tensor.requires_grad)
                setattr(change.layer, change.name, new)
                hand_over(self.optimizer, change.tensor, new, moments.get(change.tensor, {}))
            elif change.name == "weights":
                change.layer.__class__ = WeightedLayerNorm  # keeps identity, hooks and place of the module
                change.layer.register_buffer("weights", tensor / tensor.sum())
            else:
                setattr(change.layer, change.name, tensor)
        for layer in {id(change.layer): change.layer for change in self.changes}.values():
            _name_sizes(layer)


def _start_from_mean(moment: _Change) -> None:
    """Entries of new neurons are the mean over the tensor in place of 0."""
    t = moment.tensor
    if not t.numel():
        return
    typical = t.mean()
    if moment.rows is not None:
        moment.rows = torch.where(moment.rows < 0, len(t), moment.rows)
        moment.extra_rows = typical.expand(1, *t.shape[1:])
    if moment.columns is not None:
        rows = len(t) + (moment.rows is not None)
        moment.columns = torch.where(moment.columns < 0, t.shape[1], moment.columns)
        moment.extra_columns = typical.expand(rows, 1, *t.shape[2:])


def _refuse_empty(name: str, follow: Follow | None) -> None:
    if follow is not None and not len(follow.old):
        raise ValueError(f"{name!r} cannot run without channels: keep at least one neuron of {follow.group.name!r}")


def _in_memory_order_of(old: Tensor, new: Tensor) -> Tensor:
    """Channels-last where the old one is."""
    last = old.dim() == 4 and not old.is_contiguous() and old.is_contiguous(memory_format=torch.channels_last)
    return new.contiguous(memory_format=torch.channels_last) if last else new


def _name_sizes(layer: nn.Module) -> None:
    """The numbers that a layer says of itself."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Conv2d):
        layer.out_channels = len(layer.weight)
        layer.groups = layer.out_channels if layer.groups > 1 else 1
        layer.in_channels = layer.groups * layer.weight.shape[1]
    elif isinstance(layer, nn.LayerNorm):
        tensor = layer.weights if isinstance(layer, WeightedLayerNorm) else layer.weight
        layer.normalized_shape = tuple(tensor.shape)
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        tensor = layer.running_mean if layer.weight is None else layer.weight
        layer.num_features = layer.num_features if tensor is None else len(tensor)


def _names(kinds: Sequence[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds)
