"""One forward and one backward pass over the batches of all tasks: the strategies "segment" and "lowmem".

The model runs once on the concatenated batch, every loss on its own rows of the output. Backward goes the same way: the
losses' gradients with respect to those rows, concatenated, are the cotangent of one pass through the model, whose
layers (see :mod:`pcl.gradients.tape`) give (a, delta) and not their summed gradients.

- "segment" forms all task gradients from them, into buffers that are used again in every step, or keeps (a, delta)
  where the Gramian is cheaper by ghost products; see :mod:`pcl.gradients.splitting`.
- "lowmem" forms the Gramian alone, each weight's by parts, and keeps (a, delta), which take the place of what autograd
  frees meanwhile. The direction is one weighted product per weight. Nothing of the size of k gradients is ever stored.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pcl.gradients.collectors import Store
from pcl.gradients.loop import add_to
from pcl.gradients.result import Gradient, TaskGradients, weights_for
from pcl.gradients.rows import Rows
from pcl.gradients.tape import Collector, Tape, Uncovered
from pcl.gradients.workspace import Workspace


class OnePass:
    """The forward pass of all tasks, and the backward pass through it."""

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

    def backward(self, collector: Collector) -> Gradient:
        """Run backward, once; ``collector`` gets what the layers give. Returns the gradient of the own parameters."""
        self._tape.collector = collector
        wanted = [self._tape.anchor, *self._own, *self._shared]
        with torch.autocast(self._out.device.type, enabled=False):
            found = torch.autograd.grad(self._values, [*self._leaves, *wanted], allow_unused=True)
            deltas = found[: len(self._leaves)]
            total: Gradient = list(found[len(self._leaves) :])
            collector.idle = frozenset(i for i, delta in enumerate(deltas) if delta is None)
            if len(collector.idle) < len(deltas) and self._out.requires_grad:
                blocks = [torch.zeros_like(x) if d is None else d for x, d in zip(self._leaves, deltas, strict=True)]
                out, delta = self._out, torch.cat(blocks)
                del found, deltas, blocks, self._leaves, self._values, self._out  # memory runs short in backward
                add_to(total, torch.autograd.grad(out, wanted, delta, allow_unused=True))
            with torch.no_grad():
                self._tape.finish()
        own, outside = total[1 : len(self._own) + 1], total[len(self._own) + 1 :]
        if any(gradient is not None for gradient in outside):
            raise Uncovered("a parameter is used outside of the layer that it belongs to")
        return own


class OnePassGradients(TaskGradients):
    """The result of both strategies; "lowmem" without a workspace."""

    def __init__(
        self, tasks: Sequence[str], run: OnePass, shared: Sequence[Tensor], workspace: Workspace | None
    ) -> None:
        self.tasks, self.losses = tuple(tasks), run.losses
        self.shared, self._store = list(shared), Store(len(tasks), workspace, run.losses.device)
        self.own = run.backward(self._store)

    def gramian(self) -> Tensor:
        """As :meth:`TaskGradients.gramian`."""
        return self._store.gramian()

    def combine(self, weights: Tensor | Sequence[float]) -> Gradient:
        """As :meth:`TaskGradients.combine`."""
        return self._store.combine(weights_for(self.losses, weights), self.shared)

    def each(self) -> list[Gradient]:
        """As :meth:`TaskGradients.each`."""
        return self._store.each(self.shared)
