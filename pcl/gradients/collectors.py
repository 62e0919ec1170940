"""What becomes of the (a, delta) of every layer: stored gradients, or their Gramian alone."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from pcl.gradients.result import Gradient
from pcl.gradients.rows import Rows
from pcl.gradients.rules.linear import LINEAR
from pcl.gradients.splitting import ghost_gramian, ghost_is_cheaper, split, weighted
from pcl.gradients.tape import Use
from pcl.gradients.workspace import Workspace
from pcl_kernels import combine, gramian


class Store:
    """Keeps the k gradients of every weight, or its a and delta where that is cheaper.

    Args:
        tasks: k.
        workspace: whose buffers hold the gradients; None to form them by parts, multiply these and forget them, so that
            a and delta are all that is kept of any weight.
        device: of the gradients.
    """

    def __init__(self, tasks: int, workspace: Workspace | None, device: torch.device) -> None:
        self.tasks = tasks
        self.idle: frozenset[int] = frozenset()
        self._workspace = workspace
        self._stored: dict[int, list[Tensor | None]] = {}  # [id of a parameter][task]
        self._kept: dict[int, Sequence[Use]] = {}
        self._gram_of_kept = torch.zeros(tasks, tasks, dtype=torch.float64, device=device)

    def small(self, parameter: Tensor, rows: Rows, gradients: Sequence[Tensor]) -> None:
        """As :class:`~pcl.gradients.tape.Collector`; small gradients are always stored."""
        stored = self._stored.setdefault(id(parameter), [None] * self.tasks)
        for task, gradient in zip(rows.tasks, gradients, strict=True):
            if len(rows.tasks) == 1 or task not in self.idle:
                so_far, gradient = stored[task], gradient.to(parameter.dtype)
                stored[task] = gradient if so_far is None else so_far + gradient

    def weight(self, parameter: Tensor, uses: Sequence[Use]) -> None:
        """As :class:`~pcl.gradients.tape.Collector`."""
        ghost = ghost_is_cheaper(uses, self.tasks)
        if self._workspace is not None and not ghost:
            buffer = partial(self._workspace.buffer, parameter, self.tasks)
            self._stored[id(parameter)] = split(uses, self.tasks, self.idle, buffer)
            return
        self._kept[id(parameter)] = uses
        self._gram_of_kept += ghost_gramian(uses[0]) if ghost else self._gramian_by_parts(parameter, uses)

    def gramian(self) -> Tensor:
        """G ``(k, k)`` float64."""
        return self._gram_of_kept + gramian(self._lists()) if self._stored else self._gram_of_kept.clone()

    @torch.no_grad()
    def combine(self, weights: Tensor, wanted: Sequence[Tensor]) -> Gradient:
        """sum_i weights_i g_i for every wanted parameter."""
        found = dict(zip(self._stored, combine(self._lists(), weights), strict=True))
        for parameter in wanted:
            if id(parameter) in self._kept:
                first, *others = (weighted(use, weights) for use in self._kept[id(parameter)])
                found[id(parameter)] = sum(others, start=first)
        return [found.get(id(p)) for p in wanted]

    @torch.no_grad()
    def each(self, wanted: Sequence[Tensor]) -> list[Gradient]:
        """g_1 ... g_k."""
        lists = dict(self._stored)
        for parameter in wanted:
            if id(parameter) in self._kept:
                buffer = partial(parameter.new_empty, (self.tasks, *parameter.shape))
                lists[id(parameter)] = split(self._kept[id(parameter)], self.tasks, self.idle, buffer)
        nothing: list[Tensor | None] = [None] * self.tasks
        return [[lists.get(id(p), nothing)[i] for p in wanted] for i in range(self.tasks)]

    def _lists(self) -> list[Gradient]:
        return [[stored[i] for stored in self._stored.values()] for i in range(self.tasks)]

    def _gramian_by_parts(self, parameter: Tensor, uses: Sequence[Use]) -> Tensor:
        axis, total = uses[0].rule.axis, torch.zeros_like(self._gram_of_kept)
        channels = parameter.shape[axis]
        step = self._channels_at_once(parameter, uses, channels)
        for start in range(0, channels, step):
            part = slice(start, min(start + step, channels))
            shape = list(parameter.shape)
            shape[axis] = part.stop - part.start
            buffer = partial(parameter.new_empty, (self.tasks, *shape))
            total = total + gramian([[g] for g in split(uses, self.tasks, self.idle, buffer, part)])
        return total

    def _channels_at_once(self, parameter: Tensor, uses: Sequence[Use], channels: int) -> int:
        """So many that k gradients take no more memory than the weight or, where parts are dear, its input."""
        use, axes = uses[0], {use.rule.axis for use in uses}
        if len(axes) > 1 or getattr(use.layer, "groups", 1) > 1:
            return channels  # such a weight has no parts
        room = parameter.nbytes if use.rule is LINEAR else max(parameter.nbytes, use.a.nbytes)
        return max(1, min(channels, room * channels // (self.tasks * parameter.nbytes)))
