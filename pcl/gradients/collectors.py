"""What becomes of the (a, delta) of every layer: stored gradients, their Gramian alone, or a sum over tasks."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from pcl.gradients.result import Gradient
from pcl.gradients.rows import Rows
from pcl.gradients.rules.linear import LINEAR
from pcl.gradients.rules.rule import ALL
from pcl.gradients.splitting import ghost_gramian, ghost_is_cheaper, split, weighted
from pcl.gradients.tape import Use
from pcl.gradients.workspace import Workspace
from pcl_kernels import combine, gramian


class _Collector:
    """The small gradients, kept task by task."""

    def __init__(self, tasks: int) -> None:
        self.tasks = tasks
        self.idle: frozenset[int] = frozenset()
        self._stored: dict[int, list[Tensor | None]] = {}  # [id of a parameter][task]
        self._gram: Tensor | float = 0.0  # of what is not stored

    def small(self, parameter: Tensor, rows: Rows, gradients: Sequence[Tensor]) -> None:
        """As :class:`~pcl.gradients.tape.Collector`."""
        stored = self._stored.setdefault(id(parameter), [None] * self.tasks)
        for task, gradient in zip(rows.tasks, gradients, strict=True):
            if len(rows.tasks) == 1 or task not in self.idle:
                so_far, gradient = stored[task], gradient.to(parameter.dtype)
                stored[task] = gradient if so_far is None else so_far + gradient

    def _lists(self) -> list[Gradient]:
        return [[stored[i] for stored in self._stored.values()] for i in range(self.tasks)]

    def gramian(self) -> Tensor:
        """G ``(k, k)`` float64."""
        return gramian(self._lists()) + self._gram


class Store(_Collector):
    """Keeps the k gradients of every weight, or its a and delta where ghost products cost less."""

    def __init__(self, tasks: int, workspace: Workspace) -> None:
        super().__init__(tasks)
        self._workspace = workspace
        self._ghosts: dict[int, Use] = {}

    def weight(self, parameter: Tensor, uses: Sequence[Use]) -> None:
        """As :class:`~pcl.gradients.tape.Collector`."""
        if ghost_is_cheaper(uses, self.tasks) and not self.idle:
            (use,) = uses
            self._ghosts[id(parameter)] = use
            self._gram = self._gram + ghost_gramian(use)
        else:
            self._stored[id(parameter)] = self._split(parameter, uses)

    def _split(self, parameter: Tensor, uses: Sequence[Use]) -> list[Tensor | None]:
        return split(uses, self.tasks, self.idle, lambda: self._workspace.buffer(parameter, self.tasks))

    @torch.no_grad()
    def combine(self, weights: Tensor, wanted: Sequence[Tensor]) -> Gradient:
        """sum_i weights_i g_i for every wanted parameter."""
        found = dict(zip(self._stored, combine(self._lists(), weights), strict=True))
        found |= {parameter: weighted(use, weights) for parameter, use in self._ghosts.items()}
        return [found.get(id(p)) for p in wanted]

    @torch.no_grad()
    def each(self, wanted: Sequence[Tensor]) -> list[Gradient]:
        """g_1 ... g_k."""
        for parameter in wanted:
            if id(parameter) in self._ghosts:
                self._stored[id(parameter)] = self._split(parameter, [self._ghosts.pop(id(parameter))])
        nothing: list[Tensor | None] = [None] * self.tasks
        return [[self._stored.get(id(p), nothing)[i] for p in wanted] for i in range(self.tasks)]


class GramianOnly(_Collector):
    """Forms the gradients of a weight by parts, multiplies them and forgets them."""

    def weight(self, parameter: Tensor, uses: Sequence[Use]) -> None:
        """As :class:`~pcl.gradients.tape.Collector`."""
        if ghost_is_cheaper(uses, self.tasks) and not self.idle:
            self._gram = self._gram + ghost_gramian(uses[0])
            return
        axis, channels = uses[0].rule.axis, parameter.shape[uses[0].rule.axis]
        step = self._channels_at_once(parameter, uses, channels)
        for start in range(0, channels, step):
            part = slice(start, min(start + step, channels))
            shape = list(parameter.shape)
            shape[axis] = part.stop - part.start
            buffer = partial(parameter.new_empty, (self.tasks, *shape))
            self._gram = self._gram + gramian([[g] for g in split(uses, self.tasks, self.idle, buffer, part)])

    def _channels_at_once(self, parameter: Tensor, uses: Sequence[Use], channels: int) -> int:
        """So many that k gradients take no more memory than the weight or, where parts are dear, its input."""
        use, axes = uses[0], {use.rule.axis for use in uses}
        if len(axes) > 1 or getattr(use.layer, "groups", 1) > 1:
            return channels  # such a weight has no parts
        room = parameter.nbytes if use.rule is LINEAR else max(parameter.nbytes, use.a.nbytes)
        return max(1, min(channels, room * channels // (self.tasks * parameter.nbytes)))


class Total:
    """Sums over tasks; for a backward pass whose losses carry the weights."""

    idle: frozenset[int] = frozenset()  # adds nothing to a sum

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def small(self, parameter: Tensor, rows: Rows, gradients: Sequence[Tensor]) -> None:
        """As :class:`~pcl.gradients.tape.Collector`."""
        self._add(parameter, torch.stack(list(gradients)).sum(dim=0) if len(gradients) > 1 else gradients[0])

    def weight(self, parameter: Tensor, uses: Sequence[Use]) -> None:
        """As :class:`~pcl.gradients.tape.Collector`."""
        for use in uses:
            self._add(parameter, use.rule.weight(use.layer, use.a, use.delta, ALL))  # type: ignore[misc]

    def _add(self, parameter: Tensor, gradient: Tensor) -> None:
        so_far, gradient = self._sums.get(id(parameter)), gradient.to(parameter.dtype)
        self._sums[id(parameter)] = gradient if so_far is None else so_far + gradient

    def sums(self, wanted: Sequence[Tensor]) -> Gradient:
        """The sum for every wanted parameter; None where none came."""
        return [self._sums.get(id(p)) for p in wanted]
