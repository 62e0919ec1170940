"""One forward and one backward pass over the batches of all tasks: the strategies "segment" and "lowmem".

The model runs once on the concatenated batch, every loss on its own rows of the output. Backward goes the same way: the
losses' gradients with respect to those rows, concatenated, are the cotangent of one pass through the model, whose
layers (see :mod:`pcl.gradients.tape`) give (a, delta) and not their summed gradients.

- "segment" forms all task gradients from them, into buffers that are used again in every step, or keeps (a, delta)
  where the Gramian is cheaper by ghost products; see :mod:`pcl.gradients.splitting`.
- "lowmem" forms only the Gramian, layer by layer, and gets the direction by a second backward pass with the weights
  on the losses. Nothing of the size of k gradients is ever stored.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pcl.gradients.collectors import GramianOnly, Store, Total
from pcl.gradients.loop import add_to
from pcl.gradients.result import Gradient, TaskGradients, weights_for
from pcl.gradients.rows import Rows
from pcl.gradients.tape import Collector, Tape, Uncovered
from pcl.gradients.workspace import Workspace


class OnePass:
    """The forward pass of all tasks, and backward passes through it."""

    def __init__(
        self,
        losses: Mapping[str, Callable[[Tensor], Tensor]],
        shared: Sequence[Tensor],
        own: Sequence[Tensor],
        model: Callable[[Tensor], Tensor],
        inputs: Mapping[str, Tensor],
        root: nn.Module,
    ) -> None:
        self._shared, self._own = list(shared), list(own)
        self._tape = Tape(root, shared, own)
        sizes = tuple(len(x) for x in inputs.values())
        rows = Rows(tuple(range(len(sizes))), sizes)
        x = torch.cat(list(inputs.values()))
        with self._tape.recording():
            self._tape.begin(rows)
            self._out = model(x)
            if not isinstance(self._out, Tensor) or self._out.dim() == 0 or len(self._out) != rows.count:
                raise Uncovered("the model's output is not one tensor with a row for every row of the input")
            self._leaves = [block.detach().requires_grad_() for block in self._out.split(sizes)]
            self._values = []
            for i, (leaf, loss_of) in enumerate(zip(self._leaves, losses.values(), strict=True)):
                self._tape.begin(Rows((i,), (len(leaf),)))
                self._values.append(loss_of(leaf))
        self.losses = torch.stack([value.detach() for value in self._values])

    def ones(self) -> list[Tensor]:
        """The cotangents of the plain sum of the losses."""
        return list(torch.ones_like(self.losses))

    def backward(self, collector: Collector, cotangents: Sequence[Tensor | None], *, keep: bool) -> Gradient:
        """Run backward; ``collector`` gets what the layers give. Returns the gradient of the own parameters.

        Args:
            cotangents: what each loss is multiplied with; None leaves it out.
            keep: whether to keep the graph for another backward pass.
        """
        self._tape.collector = collector
        values, wanted = [], [self._tape.anchor, *self._own, *self._shared]
        for value, cotangent in zip(self._values, cotangents, strict=True):
            values += [] if cotangent is None else [value * cotangent.to(value.dtype)]
        with torch.autocast(self._out.device.type, enabled=False):
            found = _gradients(values, [*self._leaves, *wanted], None, keep)
            deltas, total = found[: len(self._leaves)], list(found[len(self._leaves) :])
            collector.idle = frozenset(i for i, delta in enumerate(deltas) if delta is None)
            if len(collector.idle) < len(deltas) and self._out.requires_grad:
                filled = [torch.zeros_like(x) if d is None else d for x, d in zip(self._leaves, deltas, strict=True)]
                add_to(total, _gradients([self._out], wanted, [torch.cat(filled)], keep))
            self._tape.finish()
        own, outside = total[1 : len(self._own) + 1], total[len(self._own) + 1 :]
        if any(gradient is not None for gradient in outside):
            raise Uncovered("a parameter is used outside of the layer that it belongs to")
        return own


def _gradients(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor] | None, keep: bool
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(outputs, inputs, cotangents, retain_graph=keep, allow_unused=True)


class SegmentGradients(TaskGradients):
    """The result of "segment"."""

    def __init__(self, tasks: Sequence[str], run: OnePass, shared: Sequence[Tensor], workspace: Workspace) -> None:
        self.tasks, self.losses = tuple(tasks), run.losses
        self._shared, self._store = list(shared), Store(len(tasks), workspace)
        self.own = run.backward(self._store, run.ones(), keep=False)

    def gramian(self) -> Tensor:
        """As :meth:`TaskGradients.gramian`."""
        return self._store.gramian()

    def combine(self, weights: Tensor | Sequence[float]) -> Gradient:
        """As :meth:`TaskGradients.combine`."""
        return self._store.combine(weights_for(self.losses, weights), self._shared)

    def each(self) -> list[Gradient]:
        """As :meth:`TaskGradients.each`."""
        return self._store.each(self._shared)


class LowMemoryGradients(TaskGradients):
    """The result of "lowmem". It holds the graph until it is dropped."""

    def __init__(self, tasks: Sequence[str], run: OnePass, shared: Sequence[Tensor]) -> None:
        self.tasks, self.losses = tuple(tasks), run.losses
        self._shared, self._run = list(shared), run
        found = GramianOnly(len(tasks))
        self.own = run.backward(found, run.ones(), keep=True)
        self._gram = found.gramian()

    def gramian(self) -> Tensor:
        """As :meth:`TaskGradients.gramian`."""
        return self._gram

    def combine(self, weights: Tensor | Sequence[float]) -> Gradient:
        """As :meth:`TaskGradients.combine`, by one backward pass; call it before the parameters change."""
        return self._sum(list(weights_for(self.losses, weights)))

    def each(self) -> list[Gradient]:
        """As :meth:`TaskGradients.each`, by k backward passes."""
        ones = self._run.ones()
        return [self._sum([one if i == j else None for j, one in enumerate(ones)]) for i in range(len(ones))]

    def _sum(self, cotangents: Sequence[Tensor | None]) -> Gradient:
        total = Total()
        self._run.backward(total, cotangents, keep=True)
        return total.sums(self._shared)
