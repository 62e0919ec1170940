"""A perceptron with linear heads under cross-entropy: forward and backward in one compiled call each, no graph.

Everything follows from d loss_i / d logits on the rows of task i, which :func:`pcl_kernels.mlp_losses` gives with the
losses, and :func:`pcl_kernels.mlp_backward` carries down. Autograd finds the same, in about twice the time for batches
of tens of samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from pcl.gradients.rows import Rows
from pcl.gradients.rules.linear import LINEAR
from pcl.gradients.tape import Use
from pcl.parts import weight_and_bias
from pcl_kernels import MLPGradients, MLPLosses, mlp_backward, mlp_descend, mlp_losses, softmax_losses

Slopes = Callable[[Tensor, Tensor], "tuple[Tensor, Tensor] | None"]


class DenseModel(NamedTuple):
    """Linear layers with a ReLU behind each, and heads whose columns, side by side, are the logits of every sample."""

    layers: Sequence[nn.Linear]
    heads: Sequence[nn.Linear]


class Weights(NamedTuple):
    """The matrices and vectors of all layers, those of the heads side by side behind the others."""

    matrices: list[Tensor]
    vectors: list[Tensor | None]

    @staticmethod
    def of(model: DenseModel) -> "Weights":
        """Those of a model: its own, but for a copy where there are several heads."""
        last = weight_and_bias(model.heads[0]) if len(model.heads) == 1 else _side_by_side(model.heads)
        weights, biases = zip(*map(weight_and_bias, model.layers), last, strict=True)
        return Weights(list(weights), list(biases))


class Classifier(Protocol):
    """What may have such layers: :class:`pcl.ContinualModel`."""

    def dense(self) -> DenseModel | None:
        """The layers, if it is made of nothing else."""

    def column_of(self, y: Tensor, task: str) -> Tensor:
        """The columns ``(n,)`` of class numbers."""


class Forward(NamedTuple):
    """What a forward pass finds of n rows: h_1 ... h_{L-1}, ``(n, n_l)`` each, and the logits ``(n, columns)``."""

    hidden: list[Tensor]
    logits: Tensor


class Replayed(NamedTuple):
    """How the cross-entropy of a task's rows enters its loss.

    Attributes:
        factor: of its mean; 0 leaves it out, also where it is infinite.
        first: the mean is that of so many rows, the first; None for all.
    """

    factor: float
    first: int | None


class DensePass:
    """The forward pass of all tasks together.

    Args:
        model: whose parameters are meant.
        x: the rows of the k tasks, one task after the other, ``(n, ...)``.
        column: of the class of every row, ``(n,)`` int64.
        sizes: rows of every task.
        tasks: their names.
        replayed: by name, what is said of tasks that :meth:`replay` adds to.
        known: what another pass has found of these rows with the same parameters, if one was made.

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
        replayed: Mapping[str, Replayed] = MappingProxyType({}),
        known: Forward | None = None,
    ) -> None:
        self.model, self.tasks = model, tuple(tasks)
        self.rows, self._replayed = Rows(tuple(range(len(sizes))), tuple(sizes)), replayed
        self._x = x.flatten(1)
        self._weights, self._biases = Weights.of(model)
        blocks, factors, of_task = self._blocks() if replayed else (sizes, (), None)
        if known is None:
            self._found = mlp_losses(self._x, self._weights, self._biases, column, blocks, factors)
        else:
            losses, of_logits = softmax_losses(known.logits, column, blocks, factors)
            self._found = MLPLosses(losses, known.logits, of_logits, known.hidden)
        self.logits, self.losses = self._found.logits, self._found.losses
        if of_task is not None:
            self.losses = self.losses[of_task]

    def _blocks(self) -> tuple[list[int], list[float], list[int] | slice]:
        """Sizes and factors of the blocks that cross-entropy is found of, and which of them are those of the tasks."""
        sizes: list[int] = []
        factors: list[float] = []
        of_task: list[int] = []
        for task, size in zip(self.tasks, self.rows.sizes, strict=True):
            factor, first = self._replayed.get(task, (1.0, None))
            of_task.append(len(sizes))
            sizes += [size] if first is None else [first, size - first]
            factors += [factor] if first is None else [factor, 0.0]
        in_order = of_task == list(range(len(of_task)))
        return sizes, factors, slice(len(of_task)) if in_order else of_task

    @staticmethod
    def of(
        model: Classifier,
        dense: DenseModel | None,
        inputs: Mapping[str, Tensor],
        labels: Mapping[str, Tensor],
        replayed: Mapping[str, Replayed] = MappingProxyType({}),
        *,
        beside: tuple[Tensor, Tensor] | None = None,
        seen: "SeenRows | None" = None,
    ) -> "DensePass | None":
        """The pass over inputs with these class numbers ``(n_i,)``, where ``model.dense()`` is one and the rows are
        float32 on the CPU; else None.

        Args:
            beside: x and y of further samples, behind those of the tasks; each is a block for itself.
            seen: the rows in an earlier pass, if they were all in one.
        """
        xs, ys, sizes = list(inputs.values()), list(labels.values()), [x.shape[0] for x in inputs.values()]
        if beside is not None:
            xs, ys, sizes = [*xs, beside[0]], [*ys, beside[1]], [*sizes, *[1] * beside[0].shape[0]]
        if dense is None or not all(map(suits, xs)):
            return None
        column = model.column_of(torch.cat(ys), next(iter(labels)))
        known = None if seen is None else seen.forward(dense)
        return DensePass(dense, torch.cat(xs), column, sizes, tuple(inputs), replayed, known)

    def leading(self) -> "DensePass":
        """The pass over the rows of its tasks, without those beside them."""
        count, sizes, found = len(self.tasks), self.rows.sizes[: len(self.tasks)], self._found
        rows, part = sum(sizes), copy(self)
        part.rows, part._x = Rows(tuple(range(count)), sizes), self._x.narrow(0, 0, rows)
        losses, logits, of_logits = found.losses.narrow(0, 0, count), *(t.narrow(0, 0, rows) for t in found[1:3])
        part._found = MLPLosses(losses, logits, of_logits, [h.narrow(0, 0, rows) for h in found.hidden])
        part.logits, part.losses = logits, losses
        return part

    def forward(self, rows: Tensor) -> Forward:
        """What it has found of some of its rows ``(n,)`` int64."""
        return Forward([h.index_select(0, rows) for h in self._found.hidden], self.logits.index_select(0, rows))

    def replay(self, task: str, others: Slopes) -> None:
        """Add another loss to that of a task, of those of its rows that cross-entropy is not the mean of; of all of
        them where it is.

        Args:
            others: of the features and the logits of those rows, gives a scalar loss and its derivative with respect to
                the logits ``(n, columns)``, or None for nothing.
        """
        number = self.tasks.index(task)
        first = self._replayed[task].first or 0
        start, length = sum(self.rows.sizes[:number]) + first, self.rows.sizes[number] - first
        features, logits, of_logits = (
            t.narrow(0, start, length) for t in (self._found.hidden[-1], self.logits, self._found.of_logits)
        )
        found = others(features, logits)
        if found is not None:
            self.losses.narrow(0, number, 1).add_(found[0])
            of_logits.add_(found[1])

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
        """The gradient of sum_i weights_i loss_i, all ones if None.

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

    def gradients(self, weights: Tensor, *, wanted: set[int], weighted_heads: bool) -> dict[int, Tensor | None]:
        """What :meth:`backward` finds of parameters, by their ids."""
        found = self.backward(weights, wanted=wanted, weighted_heads=weighted_heads)
        return self.by_parameter((found.weights, found.biases))

    def descend(self, weights: Tensor, lr: float, *, weighted_heads: bool) -> bool:
        """Let all parameters go down by lr times the gradient that :meth:`backward` finds, without keeping it; see
        :func:`pcl_kernels.mlp_descend`. Gradients that parameters still have, of an earlier step, are let go.

        Returns:
            Whether it was made. Not where a gradient is not finite, or a parameter is frozen; nothing has changed then.
        """
        layers, heads = self.model.layers, self.model.heads
        parameters = [p for layer in (*layers, *heads) for p in weight_and_bias(layer) if p is not None]
        of_logits, scale = self._weighted(weights, weighted_heads)
        known = self._x, self._weights, self._biases, self._found.hidden, of_logits
        if not all(p.requires_grad for p in parameters) or not mlp_descend(*known, lr=lr, scale=scale):
            return False
        if len(heads) > 1:
            there = self.by_parameter(Weights(self._weights, self._biases))
            with torch.no_grad():
                for p in (p for head in heads for p in (head.weight, head.bias)):
                    p.copy_(cast(Tensor, there[id(p)]))
        for p in parameters:
            p.grad = None
        return True

    def reached(self, weights: Tensor, lr: float) -> Weights | None:
        """Where all layers would stand after :meth:`descend`; None where a gradient is not finite."""
        of_logits, scale = self._weighted(weights, True)
        at = [*self._weights, *self._biases]
        out: list[Tensor | None] = [None if p is None else torch.empty_like(p, requires_grad=False) for p in at]
        known = self._x, self._weights, self._biases, self._found.hidden, of_logits
        if not mlp_descend(*known, lr=lr, scale=scale, out=out):
            return None
        layers = len(self._weights)
        return Weights(cast(list[Tensor], out[:layers]), out[layers:])

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

    def by_parameter(self, found: tuple[Sequence[Tensor | None], Sequence[Tensor | None]]) -> dict[int, Tensor | None]:
        """What there is of matrices and vectors, such as gradients, by the ids of their parameters."""
        (*weights, of_heads), (*biases, of_biases) = found
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


class SeenRows:
    """Some rows of a pass, for another one over them in the same step that finds the parameters as they are now.

    Args:
        run: the pass.
        rows: ``(n,)`` int64.
    """

    def __init__(self, run: DensePass, rows: Tensor) -> None:
        self.model = run.model
        self._run, self._rows, self._parameters = run, rows, _state_of(run.model)

    def forward(self, model: DenseModel) -> Forward | None:
        """What was found of the rows; None if the parameters are others, or have changed."""
        return self._run.forward(self._rows) if _state_of(model) == self._parameters else None


def _state_of(model: DenseModel) -> list[tuple[int, int]]:
    """Tells parameters from others, and from what they were before."""
    parameters = [p for layer in (*model.layers, *model.heads) for p in weight_and_bias(layer) if p is not None]
    return [(p.data_ptr(), p._version) for p in parameters]


def suits(x: Tensor) -> bool:
    """Whether a pass without a graph takes these rows."""
    as_read = type(x) is Tensor and x.dtype == torch.float32 and x.is_cpu and x.shape[0] > 0
    return as_read and not torch.is_autocast_enabled("cpu")


@torch.no_grad()
def _side_by_side(heads: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    return torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
