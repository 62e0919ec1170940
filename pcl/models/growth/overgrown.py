"""The over-grown network: every neuron split, every new neuron there, each by its own small step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from pcl.models.growth.candidates import Candidates, GroupCandidates
from pcl.models.growth.fast_path import fast_path
from pcl.models.growth.graph import WidthGraph
from pcl_kernels import firefly_split

_ACTIVATIONS = {"relu": torch.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}


@dataclass(frozen=True)
class Wide:
    """A value with the channels of a group that may grow.

    Args:
        tensor: channels [plus | minus | new], or [old | new] where there are no halves to be told apart.
        halves: 2 or 1.
        still: while sites are recorded: the same value at epsilon = 0, with the old channels alone.
    """

    tensor: Tensor
    halves: int
    still: Tensor | None = None


@dataclass
class Site:
    """A place of the network behind which the loss no longer sees single candidates of a group, for scoring.

    Args:
        group: its name.
        value: the value there, whose gradient is wanted.
        change: how far every candidate's step has moved the value, channels [old | new] on dimension ``axis`` in blocks
            of ``repeat``; it may have dimensions of size 1 fewer than the value.
        fast: on the fast path, in place of the change of old channels: what ``firefly_score`` takes.
    """

    group: str
    value: Tensor
    change: Tensor
    axis: int
    repeat: int
    fast: dict[str, Any] | None = None


class OverGrown(fx.Interpreter):
    """Evaluates f_{epsilon, delta} of Sec. 5.2.2 (Eq. 5.9 where neurons are copied) for the traced network of a graph.

    Call it like the model. For a group with m old and m' new neurons, R being what acts on its channels between its
    producers and its readers, W, b a producer's own weights, which rest:

        plus  = R((W + epsilon delta) h + V n)      new = R(N h)
        minus = R((W + mirror epsilon delta) h + V n)
        a reader sees  [(plus + minus) / 2 | epsilon new]

    in which [h | n] is what the producer itself sees of the group below: directions and new neurons read the old
    neurons of that group alone. Dropout is off and BatchNorm uses its running statistics; so do copies and halves,
    while new neurons have statistics of their own, see :meth:`measuring`. Where the group has a fast path the halves
    are averaged right behind the activation (``pcl_kernels.firefly_split``), else in front of the readers.

    Args:
        graph: of the network, which must be in evaluation mode while it runs.
        candidates: what may grow, with their present directions and steps.
        fast: whether to take fast paths.
    """

    def __init__(self, graph: WidthGraph, candidates: Candidates, *, fast: bool = True) -> None:
        super().__init__(graph.module)
        self.widths = graph
        self.candidates = candidates
        self.sites: list[Site] | None = None
        self._masks: Mapping[str, Tensor] = {}
        self._measuring = False
        # read once, as every forward pass would wait for a GPU
        self._halves = {name: _halves(c) for name, c in candidates.groups.items()}
        self._all_split = {name: bool((c.mirror == -1).all()) for name, c in candidates.groups.items()}
        grown = {name: c.group for name, c in candidates.groups.items() if self._halves[name] == 2 and fast}
        found = {name: fast_path(graph, group) for name, group in grown.items()}
        self.fast = {name: path[0] for name, path in found.items() if path is not None}
        self._passed = {node for path in found.values() if path is not None for node in path[1]}

    def __call__(self, *inputs: Any, masks: Mapping[str, Tensor] | None = None) -> Any:
        return self.forward(*inputs, masks=masks)

    def forward(self, *inputs: Any, masks: Mapping[str, Tensor] | None = None) -> Any:
        """What the network gives for these inputs.

        Args:
            inputs: those of the model.
            masks: by group, ``(m,)``: what every reader's view of the old neurons is multiplied by, 0 for those that
                the task at hand does not use; a group that is not named has no mask. New neurons have none.
        """
        self._masks = masks or {}
        return self.run(*inputs)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within it, every forward pass gives new neurons behind a BatchNorm the mean and variance that they have on
        its inputs."""
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False

    # --- one node

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.name in self._passed:
            return args[0]
        layer = self.widths.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        wide = [v for v in (*args, *kwargs.values()) if isinstance(v, Wide)]
        if isinstance(layer, nn.Linear | nn.Conv2d) and getattr(layer, "groups", 1) == 1:
            return self._layer(n, layer, args[0] if args else next(iter(kwargs.values())))
        if not wide:
            return getattr(self, n.op)(n.target, args, kwargs)
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            return self._batch_norm(n, layer, wide[0])
        if isinstance(layer, nn.LayerNorm):
            return self._layer_norm(n, layer, wide[0])
        if isinstance(layer, nn.Conv2d):
            return self._depthwise(n, layer, wide[0])
        value = getattr(self, n.op)(n.target, _part(args, "tensor"), _part(kwargs, "tensor"))
        if n.name not in self.widths.channels:
            return value  # a size
        still = None
        if wide[0].still is not None:
            still = getattr(self, n.op)(n.target, _part(args, "still"), _part(kwargs, "still"))
        return Wide(value, wide[0].halves, still)

    def _layer(self, n: fx.Node, layer: nn.Linear | nn.Conv2d, x: Any) -> Any:
        """A Linear or Conv2d: collapse what it reads, make what its own group needs."""
        weight = layer.weight.detach()
        bias = None if layer.bias is None else layer.bias.detach()
        if isinstance(x, Wide):
            x, columns = self._collapsed(n, x)
            weight = weight if columns is None else torch.cat([weight, columns], dim=1)
        own = self._group_of(n)
        if own is None:
            return _run(layer, x, weight, bias)
        name, old = str(n.target), layer.weight.shape[1]
        fast = own.group.name in self.fast
        rows, biases = [weight], [bias]
        if own.delta:
            delta, delta_bias = own.delta[name]
            if fast:
                rows, biases = [weight, _padded(delta, weight)], [bias, delta_bias]
            else:
                plus = own.epsilon * own.allowed
                steps = [plus, own.mirror * plus][: self._halves[own.group.name]]
                rows = [torch.cat([_moved(weight[:, :old], s, delta), weight[:, old:]], 1) for s in steps]
                biases = [None if bias is None or delta_bias is None else bias + s * delta_bias for s in steps]
        if own.new:
            rows.append(_padded(own.rows[name][0], weight))
            biases.append(own.rows[name][1])
        stacked = None if bias is None else torch.cat(biases)  # type: ignore[arg-type]
        out = _run(layer, x, torch.cat(rows) if len(rows) > 1 else weight, stacked)
        if fast:
            return self._halved(n, own, out)
        halves = len(rows) - bool(own.new)
        if self.sites is None:
            return Wide(out, halves)
        m, axis = own.group.width, self.widths.channels[n.name].axis
        with torch.no_grad():
            if not own.delta:
                still = out.narrow(axis, 0, m).clone()
            elif halves == 2 and self._all_split[own.group.name]:
                still = (out.narrow(axis, 0, m) + out.narrow(axis, m, m)) / 2
            else:
                still = _run(layer, x, weight, bias)
        return Wide(out, halves, still)

    def _collapsed(self, n: fx.Node, x: Wide) -> tuple[Tensor, Tensor | None]:
        """What a reader sees of a group, [h | new], and its columns for the new neurons, times their steps."""
        at = self.widths.channels[n.all_input_nodes[0].name]
        own = self.candidates.groups[at.group]
        width = own.group.width * at.repeat
        value = x.tensor
        if x.halves == 2:
            plus, minus, new = value.split([width, width, own.new * at.repeat], dim=at.axis)
            value = torch.cat([(plus + minus) / 2, new], dim=at.axis) if own.new else (plus + minus) / 2
        if self.sites is not None and at.group not in self.fast:
            with torch.no_grad():
                change = value.clone()
                change.narrow(at.axis, 0, width).sub_(x.still)  # type: ignore[arg-type]
            value = value.view_as(value)  # a node of the graph of its own, which may have other readers
            self.sites.append(Site(at.group, value, change, at.axis, at.repeat))
        if at.group in self._masks:
            mask = self._masks[at.group].to(value).repeat_interleave(at.repeat)
            mask = torch.cat([mask, mask.new_ones(own.new * at.repeat)])
            value = value * mask.view(-1, *[1] * (value.dim() - 1 - at.axis))
        if not own.new:
            return value, None
        steps = own.epsilon_new.repeat_interleave(at.repeat)
        columns = own.columns[str(n.target)]
        return value, columns * steps.view(1, -1, *[1] * (columns.dim() - 2))

    def _halved(self, n: fx.Node, own: GroupCandidates, out: Tensor) -> Wide:
        """The fast path: [a | d | new] to [(plus + minus) / 2 | new], both behind BatchNorm and activation."""
        path, m = self.fast[own.group.name], own.group.width
        a, d, new = out.split([m, m, own.new], dim=1)
        scale = shift = None
        if path.norm is not None:
            norm: Any = self.widths.module.get_submodule(path.norm)
            scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.detach())
            shift = (0 if norm.bias is None else norm.bias.detach()) - norm.running_mean * scale
        given = {"scale": scale, "shift": shift, "mirror": own.mirror, "activation": path.activation}
        epsilon = own.epsilon * own.allowed
        h = firefly_split(a, d, epsilon, **given)  # type: ignore[arg-type]
        if own.new:
            new = new if path.norm is None else self._normed_new(path.norm, own, new)
            h = torch.cat([h, _ACTIVATIONS[path.activation](new)], dim=1)
        if self.sites is not None:
            given |= {"a": a.detach(), "d": d.detach(), "epsilon": epsilon.detach()}
            self.sites.append(Site(own.group.name, h, h.detach(), 1, 1, given))
        return Wide(h, 1)

    # --- normalisations and depthwise layers

    def _batch_norm(self, n: fx.Node, layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Wide) -> Wide:
        own = self._owner(n)
        if self._measuring and own.new:
            self._measure(str(n.target), own, x.tensor.narrow(1, x.tensor.shape[1] - own.new, own.new))
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self._stretched(n, layer, x, key) for key in keys)
        out = F.batch_norm(x.tensor, mean, variance, weight, bias, training=mean is None, eps=layer.eps)
        return Wide(out, x.halves, None if x.still is None else layer(x.still))

    def _stretched(self, n: fx.Node, layer: nn.Module, x: Wide, key: str) -> Tensor | None:
        """The entries of a normalisation for all channels of x."""
        value = getattr(layer, key)
        if value is None:
            return None
        own = self._owner(n)
        new = [own.norms[str(n.target)][key]] if own.new else []
        return torch.cat([value.detach()] * x.halves + new)

    def _normed_new(self, name: str, own: GroupCandidates, new: Tensor) -> Tensor:
        if self._measuring:
            self._measure(name, own, new)
        eps = self.widths.module.get_submodule(name).eps
        return F.batch_norm(new, **own.norms[name], eps=eps)  # type: ignore[arg-type]

    def _measure(self, name: str, own: GroupCandidates, new: Tensor) -> None:
        found = own.norms[name]
        if "running_mean" in found:
            found["running_var"], found["running_mean"] = torch.var_mean(
                new.detach(), dim=[0, *range(2, new.dim())], correction=0
            )

    def _depthwise(self, n: fx.Node, layer: nn.Conv2d, x: Wide) -> Wide:
        own = self._owner(n)
        new = own.rows.get(str(n.target), (None, None))
        weight = [layer.weight.detach()] * x.halves + ([new[0]] if new[0] is not None else [])
        bias = None
        if layer.bias is not None:
            bias = torch.cat([layer.bias.detach()] * x.halves + ([new[1]] if new[1] is not None else []))
        out = _run(layer, x.tensor, torch.cat(weight), bias)
        return Wide(out, x.halves, None if x.still is None else layer(x.still))

    def _layer_norm(self, n: fx.Node, layer: nn.LayerNorm, x: Wide) -> Wide:
        """Mean and variance are weighted: half of an old neuron's weight for each of its halves, 0 for a new one.

        While sites are recorded, mean and variance are sites of their own: each is a sum over neurons, and what a
        neuron does to others through them is told apart from what it does behind.
        """
        own = self._owner(n)
        m = own.group.width
        weight = getattr(layer, "weights", x.tensor.new_full((m,), 1 / m))
        if own.group.name in self._masks:
            weight = weight * self._masks[own.group.name].to(weight)
            weight = weight / weight.sum()
        u = torch.cat([weight / x.halves] * x.halves + [weight.new_zeros(own.new)])
        mean = (x.tensor * u).sum(-1, keepdim=True)
        # the variance does not depend on the mean to first order, so that their gradients are told apart
        variance = (u * (x.tensor - mean.detach()).square()).sum(-1, keepdim=True)
        gamma, beta = (self._stretched(n, layer, x, key) for key in ("weight", "bias"))
        out = _affine((x.tensor - mean) * (variance + layer.eps).rsqrt(), gamma, beta)
        if x.still is None:
            return Wide(out, x.halves)
        assert self.sites is not None
        with torch.no_grad():
            old = x.tensor[..., : m * x.halves].unflatten(-1, (x.halves, m))
            for site, moved, before in (
                (mean, old, x.still),
                (variance, (old - mean[..., None]).square(), (x.still - mean).square()),
            ):
                change = weight * (moved.mean(-2) - before)
                self.sites.append(Site(own.group.name, site, change, change.dim() - 1, 1))
            still = _affine((x.still - mean) * (variance + layer.eps).rsqrt(), layer.weight, layer.bias)
        return Wide(out, x.halves, still)

    # --- small parts

    def _group_of(self, n: fx.Node) -> GroupCandidates | None:
        """The candidates of the group whose channels a node's value has, if there are any."""
        at = self.widths.channels.get(n.name)
        return None if at is None else self.candidates.groups.get(at.group)

    def _owner(self, n: fx.Node) -> GroupCandidates:
        own = self._group_of(n)
        assert own is not None
        return own


def _halves(c: GroupCandidates) -> int:
    """Whether the two halves of the old neurons differ: 2 where some neuron may split, else 1."""
    return 2 if bool((c.allowed & (c.mirror != 1)).any()) else 1


def _moved(weight: Tensor, step: Tensor, delta: Tensor) -> Tensor:
    return weight + step.view(-1, *[1] * (weight.dim() - 1)) * delta


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _padded(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows over the old inputs of a layer, with zeros for the new ones."""
    new = weight.shape[1] - rows.shape[1]
    return rows if new == 0 else torch.cat([rows, rows.new_zeros(len(rows), new, *rows.shape[2:])], dim=1)


def _run(layer: nn.Linear | nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The layer with other weights."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    if not weight.numel():  # no rows, or nothing to read, which convolutions refuse
        out = _run(layer, x.new_zeros(len(x), 1, *x.shape[2:]), weight.new_zeros(1, 1, *weight.shape[2:]), None)
        out = out.expand(-1, len(weight), -1, -1)
        return out if bias is None else out + bias.view(-1, 1, 1)
    groups = weight.shape[0] if layer.groups > 1 else 1
    padding: Any = layer.padding
    if layer.padding_mode != "zeros":
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0
    return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, groups)


def _part(value: Any, part: str) -> Any:
    """Every wide value's tensor, or its value at epsilon = 0."""
    return fx.node.map_aggregate(value, lambda v: getattr(v, part) if isinstance(v, Wide) else v)
