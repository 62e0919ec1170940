"""A perceptron with linear heads under cross-entropy: forward and backward in one compiled call each, no graph.

Everything follows from d loss_i / d logits on the rows of task i, which :func:`pcl_kernels.mlp_losses` gives with the
losses, and :func:`pcl_kernels.mlp_backward` carries down. Autograd finds the same, in about twice the time for batches
of tens of samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from types import MappingProxyType
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from pcl.gradients.collectors import Store
from pcl.gradients.result import Gradient, TaskGradients, weights_for
from pcl.gradients.rows import Rows
from pcl.gradients.rules.linear import LINEAR
from pcl.gradients.rules.rule import block_sums
from pcl.gradients.splitting import costs
from pcl.gradients.tape import Use
from pcl.gradients.workspace import Workspace
from pcl_kernels import MLPGradients, ghost_gramian, mlp_backward, mlp_descend, mlp_losses

Slopes = Callable[[Tensor, Tensor], "tuple[Tensor, Tensor] | None"]


class DenseModel(NamedTuple):
    """Linear layers with a ReLU behind each, and heads whose columns, side by side, are the logits of every sample."""

    layers: Sequence[nn.Linear]
    heads: Sequence[nn.Linear]


class Classifier(Protocol):
    """What may have such layers: :class:`pcl.ContinualModel`."""

    def dense(self) -> DenseModel | None:
        """The layers, if it is made of nothing else."""

    def column_of(self, y: Tensor, task: str) -> Tensor:
        """The columns ``(n,)`` of class numbers."""


class DensePass:
    """The forward pass of all tasks together.

    Args:
        model: whose parameters are meant.
        x: the rows of the k tasks, one task after the other, ``(n, ...)``.
        column: of the class of every row, ``(n,)`` int64.
        sizes: rows of every task.
        tasks: their names.
        first: by name, of how many rows of a task cross-entropy is the mean, where not of all: the others are left to
            :meth:`replay`.

    Attributes:
        losses: ``(k,)``.
        logits: ``(n, columns)``.
    """

    def __init__(
        self,
        model: DenseModel,
        x: Tensor,
        column: Tensor,
        sizes: Sequence[int],
        tasks: Sequence[str] = (),
        first: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.model, self.tasks = model, tuple(tasks)
        self.rows, self._first = Rows(tuple(range(len(sizes))), tuple(sizes)), first
        self._x = x.flatten(1)
        heads = model.heads
        together = (heads[0].weight, heads[0].bias) if len(heads) == 1 else _side_by_side(heads)
        self._weights: list[Tensor] = [*[layer.weight for layer in model.layers], together[0]]
        self._biases: list[Tensor | None] = [*[layer.bias for layer in model.layers], together[1]]
        parts = [[n] for n in sizes]
        if first:
            parts = [[first[t], n - first[t]] if t in first else [n] for t, n in zip(tasks, sizes, strict=True)]
        blocks = [block for part in parts for block in part]
        self._found = mlp_losses(self._x, self._weights, self._biases, column, blocks)
        self.logits, self.losses = self._found.logits, self._found.losses
        if first:
            of_first = torch.tensor(list(accumulate(map(len, parts[:-1]), initial=0)))
            self.losses = self.losses.index_select(0, of_first)

    @staticmethod
    def of(
        model: Classifier,
        dense: DenseModel | None,
        inputs: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        first: Mapping[str, int] = MappingProxyType({}),
    ) -> "DensePass | None":
        """The pass over inputs with these class numbers ``(n_i,)``, where ``model.dense()`` is one and the rows are
        float32 on the CPU; else None."""
        sizes = [x.shape[0] for x in inputs.values()]
        if dense is None or not all(map(_suits, inputs.values())):
            return None
        column = model.column_of(torch.cat(list(labels.values())), next(iter(labels)))
        return DensePass(dense, torch.cat(list(inputs.values())), column, sizes, tuple(inputs), first)

    @staticmethod
    def of_samples(dense: DenseModel, x: Tensor, column: Tensor) -> "DensePass | None":
        """The same with every sample for itself: x ``(n, ...)`` with the columns ``(n,)`` of their classes."""
        return DensePass(dense, x, column, [1] * x.shape[0]) if _suits(x) else None

    def replay(self, task: str, factor: float, others: Slopes) -> None:
        """Take for the loss of a task factor times the mean cross-entropy of its ``first`` rows, and another loss of
        the rest of its rows; of all of them where ``first`` says nothing.

        Args:
            others: of the features and the logits of those rows, gives a scalar loss and its derivative with respect to
                the logits ``(n, columns)``, or None for nothing.
        """
        number = self.tasks.index(task)
        start, size, count = sum(self.rows.sizes[:number]), self.rows.sizes[number], self._first.get(task, 0)
        rest, length = start + count, size - count
        of_logits, loss = self._found.of_logits.narrow(0, start, size), self.losses.narrow(0, number, 1)
        of_rest = of_logits.narrow(0, count, length)
        if factor != 1:  # 0 leaves out what may be infinite
            for part in (loss, of_logits):
                part.mul_(factor) if factor else part.zero_()
        found = others(self._found.hidden[-1].narrow(0, rest, length), self.logits.narrow(0, rest, length))
        if count:
            of_rest.zero_()
        if found is not None:
            loss.add_(found[0])
            of_rest.add_(found[1])

    def follow(self, losses: Mapping[str, Callable[[Tensor, Tensor], Tensor]]) -> None:
        """Take other losses in place of cross-entropy, functions of the features and the logits of every task's rows,
        which depend on parameters through the logits alone."""
        logits, sizes = self.logits.detach().requires_grad_(), self.rows.sizes
        features = self._found.hidden[-1].split(sizes)
        blocks = zip(losses.values(), features, logits.split(sizes), strict=True)
        values = torch.stack([of(*block) for of, *block in blocks])
        (of_logits,) = torch.autograd.grad(values.sum(), logits)
        self.losses, self._found = values.detach(), self._found._replace(of_logits=of_logits)

    def backward(self, weights: Tensor | None, *, wanted: set[int], weighted_heads: bool) -> MLPGradients:
        """Of sum_i weights_i loss_i, all ones if None, as a gradient of parameters by their ids.

        Args:
            wanted: ids of the parameters whose gradient is to be found.
            weighted_heads: whether those of the heads follow this sum too, or the sum of all losses.
        """
        layers = self.model.layers
        of_logits, scale = self._weighted(weights, weighted_heads)
        heads = [any(id(p) in wanted for head in self.model.heads for p in head.parameters())]
        needs = [id(layer.weight) in wanted for layer in layers] + heads
        needs += [id(layer.bias) in wanted for layer in layers] + heads
        return mlp_backward(self._x, self._weights, self._found.hidden, of_logits, scale=scale, wanted=needs)

    def of_inputs(self) -> Tensor:
        """The derivative of the sum of all losses with respect to the rows, in their shape after flattening."""
        wanted = [False] * (2 * len(self._weights))
        known = self._x, self._weights, self._found.hidden, self._found.of_logits
        found = mlp_backward(*known, wanted=wanted, of_x=True).x
        assert found is not None
        return found

    def descend(self, weights: Tensor, lr: float, *, weighted_heads: bool) -> bool:
        """Let all parameters go down by lr times the gradient that :meth:`backward` finds, without keeping it; see
        :func:`pcl_kernels.mlp_descend`. Gradients that parameters still have, of an earlier step, are let go.

        Returns:
            Whether it was made. Not where a gradient is not finite, or a parameter is frozen; nothing has changed then.
        """
        layers, heads = self.model.layers, self.model.heads
        parameters = [p for layer in (*layers, *heads) for p in (layer.weight, layer.bias) if p is not None]
        of_logits, scale = self._weighted(weights, weighted_heads)
        known = self._x, self._weights, self._biases, self._found.hidden, of_logits
        if not all(p.requires_grad for p in parameters) or not mlp_descend(*known, lr=lr, scale=scale):
            return False
        if len(heads) > 1:
            there = self.by_parameter(MLPGradients([], list(self._weights), list(self._biases)))
            with torch.no_grad():
                for p in (p for head in heads for p in (head.weight, head.bias)):
                    p.copy_(cast(Tensor, there[id(p)]))
        for p in parameters:
            p.grad = None
        return True

    def reached(self, weights: Tensor, lr: float) -> dict[int, Tensor | None] | None:
        """Where all parameters would stand after :meth:`descend`, by their ids; None where a gradient is not finite."""
        of_logits, scale = self._weighted(weights, True)
        at = [*self._weights, *self._biases]
        out: list[Tensor | None] = [None if p is None else torch.empty_like(p, requires_grad=False) for p in at]
        known = self._x, self._weights, self._biases, self._found.hidden, of_logits
        if not mlp_descend(*known, lr=lr, scale=scale, out=out):
            return None
        layers = len(self._weights)
        return self.by_parameter(MLPGradients([], out[:layers], out[layers:]))

    def keep(self) -> Callable[[], None]:
        """Stay at the parameters' present values where others are put in their places; a function that says whether
        they still are what they were.

        Raises:
            RuntimeError: by that function, if they have been changed in place.
        """
        self._weights = [weight.detach() for weight in self._weights]
        self._biases = [None if bias is None else bias.detach() for bias in self._biases]
        now = [p for p in (*self._weights, *self._biases) if p is not None]
        versions = [p._version for p in now]

        def check() -> None:
            if versions != [p._version for p in now]:
                raise RuntimeError(
                    "the parameters have changed since the gradient of the step ahead was asked for; look at it before "
                    "the step is made, or keep a copy: list(incoming.gradient)"
                )

        return check

    def _weighted(self, weights: Tensor | None, weighted_heads: bool) -> tuple[Tensor, Tensor | None]:
        """The losses' derivatives with respect to the logits, and what scales those below, as
        :func:`pcl_kernels.mlp_backward` has them."""
        of_logits = self._found.of_logits
        if weights is None or set(weights.tolist()) == {1.0}:
            return of_logits, None
        repeats = torch.tensor(self.rows.sizes)
        scale = weights.to(of_logits.dtype).repeat_interleave(repeats, output_size=self.rows.count)
        return (of_logits * scale[:, None], None) if weighted_heads else (of_logits, scale)

    def by_parameter(self, found: MLPGradients) -> dict[int, Tensor | None]:
        """The gradients, or what else there is of weights and biases, by the ids of their parameters."""
        *weights, of_heads = found.weights
        *biases, of_biases = found.biases
        by_id: dict[int, Tensor | None] = {}
        for layer, weight, bias in zip(self.model.layers, weights, biases, strict=True):
            by_id[id(layer.weight)], by_id[id(layer.bias)] = weight, bias
        if len(self.model.heads) == 1:  # as nearly always; a split takes as long as a small product
            by_id[id(self.model.heads[0].weight)], by_id[id(self.model.heads[0].bias)] = of_heads, of_biases
        elif of_heads is not None and of_biases is not None:
            sizes = [len(head.weight) for head in self.model.heads]
            parts = zip(self.model.heads, of_heads.split(sizes), of_biases.split(sizes), strict=True)
            for head, weight, bias in parts:
                by_id[id(head.weight)], by_id[id(head.bias)] = weight, bias
        return by_id

    def uses(self, deltas: Sequence[Tensor]) -> Iterator[Use]:
        """(a, delta) of every layer; ``deltas`` of those below the heads."""
        *inputs, features = [self._x, *self._found.hidden]
        parts = self._found.of_logits.split([len(head.weight) for head in self.model.heads], dim=1)
        for head, delta in zip(self.model.heads, parts, strict=True):
            yield Use(head, LINEAR, features, delta, self.rows)
        for layer, a, delta in zip(self.model.layers, inputs, deltas, strict=True):
            yield Use(layer, LINEAR, a, delta, self.rows)


def _suits(x: Tensor) -> bool:
    as_read = type(x) is Tensor and x.dtype == torch.float32 and x.is_cpu and x.shape[0] > 0
    return as_read and not torch.is_autocast_enabled("cpu")


@torch.no_grad()
def _side_by_side(heads: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    return torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])


class DenseLoss:
    """What :class:`~pcl.gradients.summed.SummedLoss` finds, of a :class:`DensePass`; attributes and use as there."""

    def __init__(self, run: DensePass, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
        self.tasks, self.losses = run.tasks, run.losses
        self.own: Gradient = []
        self._run, self._shared, self._others = run, list(shared), list(own)

    def combine(self, weights: Tensor) -> Gradient:
        """As :meth:`pcl.gradients.summed.SummedLoss.combine`."""
        wanted = {id(p) for p in (*self._shared, *self._others)}
        found = self._run.by_parameter(self._run.backward(weights, wanted=wanted, weighted_heads=not self._others))
        self.own = [found.get(id(p)) for p in self._others]
        return [found.get(id(p)) for p in self._shared]

    def descend(self, weights: Tensor, lr: float) -> bool:
        """In place of :meth:`combine` and an update by gradient descent, whose bits it has: all parameters of the model
        go down along their gradients, which are not kept. See :meth:`DensePass.descend`."""
        return self._run.descend(weights, lr, weighted_heads=not self._others)


class DenseGradients(TaskGradients):
    """The gradients of every task, of a :class:`DensePass`. None of them is formed where their Gramian and their
    combination cost less without; use as :class:`DenseLoss`."""

    def __init__(self, run: DensePass, shared: Sequence[Tensor], own: Sequence[Tensor], workspace: Workspace) -> None:
        self.tasks, self.losses, self.shared = run.tasks, run.losses, list(shared)
        self._run, self._workspace, self._wanted = run, workspace, {id(p) for p in shared}
        found = run.backward(None, wanted={id(p) for p in own}, weighted_heads=False)
        of_own = run.by_parameter(found)
        self.own = [of_own.get(id(p)) for p in own]
        self._uses = [
            use for use in run.uses(found.deltas) if self._wants(use.layer.weight) or self._wants(use.layer.bias)
        ]
        whole = all(self._wants(use.layer.weight) and self._wants(use.layer.bias) for use in self._uses)
        ghost, stored = map(sum, zip(*[costs(use, len(self.tasks)) for use in self._uses], strict=True))
        self._formless = whole and ghost < stored

    def gramian(self) -> Tensor:
        """As :meth:`TaskGradients.gramian`."""
        if not self._formless:
            return self._stored.gramian()
        sizes = self._run.rows.sizes
        first, *others = [ghost_gramian(use.a, use.delta, sizes, bias=True) for use in self._uses]
        return sum(others, start=first)

    def combine(self, weights: Tensor | Sequence[float]) -> Gradient:
        """As :meth:`TaskGradients.combine`."""
        weights = weights_for(self.losses, weights)
        if not self._formless:
            return self._stored.combine(weights, self.shared)
        found = self._run.by_parameter(self._run.backward(weights, wanted=self._wanted, weighted_heads=not self.own))
        return [found.get(id(p)) for p in self.shared]

    def descend(self, weights: Tensor, lr: float) -> bool:
        """As :meth:`DenseLoss.descend`; not where gradients are stored."""
        return self._formless and self._run.descend(weights, lr, weighted_heads=not self.own)

    def each(self) -> list[Gradient]:
        """As :meth:`TaskGradients.each`."""
        return self._stored.each(self.shared)

    @cached_property
    @torch.no_grad()
    def _stored(self) -> Store:
        store, rows = Store(len(self.tasks), self._workspace, self.losses.device), self._run.rows
        for use in self._uses:
            weight, bias = use.layer.weight, use.layer.bias
            if isinstance(bias, Tensor) and self._wants(bias):
                store.small(bias, rows, block_sums(use.delta[:, None], rows))
            if isinstance(weight, Tensor) and self._wants(weight):
                store.weight(weight, [use])
        return store

    def _wants(self, parameter: object) -> bool:
        return id(parameter) in self._wanted
