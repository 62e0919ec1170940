"""A perceptron with linear heads under cross-entropy: forward and backward in one compiled call each, no graph.

Everything follows from d loss_i / d logits on the rows of task i, which :func:`pcl_kernels.mlp_losses` gives with the
losses, and :func:`pcl_kernels.mlp_backward` carries down. Autograd finds the same, in about twice the time for batches
of tens of samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pcl.gradients.collectors import CollectedGradients, Store
from pcl.gradients.result import Gradient
from pcl.gradients.rows import Rows
from pcl.gradients.rules.linear import LINEAR
from pcl.gradients.rules.rule import block_sums
from pcl.gradients.tape import Use
from pcl.gradients.workspace import Workspace
from pcl_kernels import MLPGradients, mlp_backward, mlp_losses

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
        inputs: for each of the k tasks ``(n_i, ...)``.
        column: of the class of every row of all tasks ``(n,)``, int64.

    Attributes:
        losses: ``(k,)``.
        logits: ``(n, columns)``.
    """

    def __init__(self, model: DenseModel, inputs: Mapping[str, Tensor], column: Tensor) -> None:
        self.model, self.tasks = model, tuple(inputs)
        self.rows = Rows(tuple(range(len(inputs))), tuple([len(x) for x in inputs.values()]))
        self._x = torch.cat(list(inputs.values())).flatten(1)
        heads = model.heads
        biases: list[Tensor] = [layer.bias for layer in model.layers]
        with torch.no_grad():
            head = heads[0].weight if len(heads) == 1 else torch.cat([head.weight for head in heads])
            biases.append(heads[0].bias if len(heads) == 1 else torch.cat([head.bias for head in heads]))
        self._weights: list[Tensor] = [*[layer.weight for layer in model.layers], head]
        self._column = column
        self._found = mlp_losses(self._x, self._weights, biases, column, self.rows.sizes)
        self.losses, self.logits = self._found.losses, self._found.logits

    @staticmethod
    def of(model: Classifier, inputs: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> "DensePass | None":
        """The pass over inputs with these class numbers ``(n_i,)``, where the model is such a one and the rows are
        float32 on the CPU; else None."""
        dense = model.dense()
        if dense is None or torch.is_autocast_enabled("cpu"):
            return None
        for x in inputs.values():
            if type(x) is not Tensor or x.dtype != torch.float32 or not x.is_cpu or len(x) == 0:
                return None
        return DensePass(dense, inputs, model.column_of(torch.cat(list(labels.values())), next(iter(labels))))

    def replay(self, task: str, count: int, factor: float, others: Slopes) -> None:
        """Take for the loss of a task factor times the mean cross-entropy of its first ``count`` rows, and the mean of
        other losses over the rest of its rows; over all of them where there is no rest.

        Args:
            others: of the features and the logits of the task's rows, gives losses ``(n,)`` and their derivatives with
                respect to the logits ``(n, columns)``, or None for nothing.
        """
        number = self.tasks.index(task)
        first, size = sum(self.rows.sizes[:number]), self.rows.sizes[number]
        rows = slice(first, first + size)
        logits, of_logits = self.logits[rows], self._found.of_logits[rows]
        found, loss = others(self._found.hidden[-1][rows], logits), logits.new_zeros(())
        if factor:
            loss = factor * cross_entropy(logits[:count], self._column[rows][:count])
            of_logits[:count] *= factor * size / count
        of_logits[count if factor else 0 :] = 0
        if found is not None:
            losses, slopes = found
            rest = slice(count if count < size else 0, size)
            loss = loss + losses[rest].mean()
            of_logits[rest] += slopes[rest] / len(losses[rest])
        self.losses[number] = loss

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
        layers, of_logits, scale = self.model.layers, self._found.of_logits, None
        if weights is not None:
            repeats = torch.tensor(self.rows.sizes)
            scale = weights.to(of_logits.dtype).repeat_interleave(repeats, output_size=self.rows.count)
            if weighted_heads:
                of_logits, scale = of_logits * scale[:, None], None
        heads = [any(id(p) in wanted for head in self.model.heads for p in head.parameters())]
        needs = [id(layer.weight) in wanted for layer in layers] + heads
        needs += [id(layer.bias) in wanted for layer in layers] + heads
        return mlp_backward(self._x, self._weights, self._found.hidden, of_logits, scale=scale, wanted=needs)

    def by_parameter(self, found: MLPGradients) -> dict[int, Tensor | None]:
        """The gradients by the ids of their parameters."""
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


class DenseLoss:
    """What :class:`~pcl.gradients.summed.SummedLoss` finds, of a :class:`DensePass`; attributes and use as there."""

    def __init__(self, run: DensePass, shared: Sequence[Tensor], own: Sequence[Tensor]) -> None:
        self.tasks, self.losses = run.tasks, run.losses
        self.own: Gradient = []
        self._run, self._shared, self._others = run, list(shared), list(own)

    def combine(self, weights: Tensor) -> Gradient:
        """As :meth:`pcl.gradients.summed.SummedLoss.combine`."""
        alike = set(weights.tolist()) == {1.0}
        found = self._run.by_parameter(
            self._run.backward(
                None if alike else weights,
                wanted={id(p) for p in (*self._shared, *self._others)},
                weighted_heads=not self._others,
            )
        )
        self.own = [found.get(id(p)) for p in self._others]
        return [found.get(id(p)) for p in self._shared]


class DenseGradients(CollectedGradients):
    """The gradients of every task, of a :class:`DensePass`."""

    @torch.no_grad()
    def __init__(self, run: DensePass, shared: Sequence[Tensor], own: Sequence[Tensor], workspace: Workspace) -> None:
        self.tasks, self.losses, self.shared = run.tasks, run.losses, list(shared)
        self._store = Store(len(self.tasks), workspace, run.losses.device)
        wanted = {id(p) for p in shared}
        found = run.backward(None, wanted={id(p) for p in own}, weighted_heads=False)
        of_own = run.by_parameter(found)
        self.own = [of_own.get(id(p)) for p in own]
        for use in run.uses(found.deltas):
            weight, bias = use.layer.weight, use.layer.bias
            if isinstance(bias, Tensor) and id(bias) in wanted:
                self._store.small(bias, run.rows, block_sums(use.delta[:, None], run.rows))
            if isinstance(weight, Tensor) and id(weight) in wanted:
                self._store.weight(weight, [use])
