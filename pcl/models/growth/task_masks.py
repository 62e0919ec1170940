"""Which neurons a task uses: one binary mask per task and group, as in Bo Liu's dissertation, 2025, Sec. 5.2.4."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pcl.models.growth.graph import Reader


class Owned(NamedTuple):
    """Samples x ``(B, ...)`` and whose they are: of the tasks ``names``, sample b of ``names[task[b]]``; with None for
    ``task`` all of the one that is named."""

    x: Tensor
    names: tuple[str, ...]
    task: Tensor | None


class TaskMasks(nn.Module):
    """mu ``(m,)`` in {0, 1} for every group of neurons, for one task.

    Of some neurons the task learns whether it uses them (Alg. 6, "train a binary mask"), by a score s for each:

        mu_i = [s_i > 0],  d mu_i / d s_i := 1 (straight through),

    of the others it is settled. All scores begin at ``start``, so that the task begins with every neuron, and one is
    dropped when training has moved its score by that much. In a group with no settled neuron that of the highest
    score stays on.

    Args:
        on: by group, ``(m,)`` bool, what the task uses.
        learns: by group, ``(m,)`` bool, of which of these it learns whether it does.
        start: of the scores, above 0.

    Attributes:
        scores: one ``(m,)`` per group, in the order of ``on``; those of settled neurons mean nothing.
    """

    def __init__(
        self, on: Mapping[str, Tensor], learns: Mapping[str, Tensor], start: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.names = tuple(on)
        self.start = start
        self._whole: dict[str, bool] = {}  # see whole(): to be asked on a GPU without a wait
        self.scores = nn.ParameterList(
            nn.Parameter(torch.full(mask.shape, start, dtype=dtype, device=mask.device)) for mask in on.values()
        )
        for number, name in enumerate(self.names):
            self.register_buffer(f"on_{number}", on[name] & ~learns[name])
            self.register_buffer(f"learns_{number}", learns[name].clone())

    def mask(self, group: str) -> Tensor:
        """mu ``(m,)`` of floating dtype, with the gradient of the scores."""
        score = self.scores[self.names.index(group)]
        step = score - score.detach()  # zeros; 1 + s - s would not be 1
        return self.on(group).to(score.dtype) + torch.where(self.learns(group), step, 0.0)

    @torch.no_grad()
    def on(self, group: str) -> Tensor:
        """mu ``(m,)`` as bool."""
        number = self.names.index(group)
        score, learns = self.scores[number], self.learns(group)
        on: Tensor = getattr(self, f"on_{number}") | (learns & (score > 0))
        if not len(on):
            return on
        best = learns & (score == torch.where(learns, score, -torch.inf).amax())
        found: Tensor = on | (best & ~on.any())
        return found

    def learns(self, group: str) -> Tensor:
        """Of which neurons the task learns whether it uses them, ``(m,)`` bool."""
        found: Tensor = getattr(self, f"learns_{self.names.index(group)}")
        return found

    def settle(self) -> None:
        """From now on the mask is what it is."""
        for number, name in enumerate(self.names):
            self._set(number, self.on(name), torch.zeros_like(self.learns(name)))
        self.scores.requires_grad_(False)

    def learn(self, neurons: Mapping[str, Tensor]) -> None:
        """Learn from now on whether to use these as well, ``(m,)`` bool each, as far as the task does."""
        for number, name in enumerate(self.names):
            on, learns = self.on(name), self.learns(name)
            new = neurons[name] & on & ~learns
            self._set(number, on & ~learns & ~new, learns | new)
            self.scores[number].data[new] = self.start  # weight decay may have moved what meant nothing

    def take(
        self,
        group: str,
        parents: Tensor,
        on: Tensor,
        settled: Tensor,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        """The group has grown: what is learned of neuron ``parents[i]`` now holds of neuron i.

        Args:
            parents: ``(m',)`` int64; -1 for one of which nothing is known.
            on: ``(m',)`` bool, whether the task uses it where it does not learn that.
            settled: ``(m',)`` bool, of which it learns no longer whether it uses them.
            optimizer: its state of the scores follows, with zeros where there is no parent.
        """
        number = self.names.index(group)
        known, source = parents >= 0, parents.clamp(min=0)
        score, before = self.scores[number], self.learns(group)
        learns = known & before[source] & ~settled
        state = {} if optimizer is None else optimizer.state.get(score, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == before.shape:
                state[name] = torch.where(known, value[source], 0.0)
        score.data = torch.where(learns, score.detach()[source], self.start)
        score.grad = None
        self._set(number, on & ~learns, learns)

    def resize(self, group: str, width: int) -> None:
        """Make room for a state of another width, which is loaded next."""
        number = self.names.index(group)
        self.scores[number].data = self.scores[number].new_full((width,), self.start)
        none = torch.zeros(width, dtype=torch.bool, device=self.scores[number].device)
        self._set(number, none, none.clone())

    def whole(self, group: str) -> bool:
        """Whether the task uses every neuron of the group, and learns of none whether it does."""
        if group not in self._whole:
            self._whole[group] = bool((self.on(group) & ~self.learns(group)).all())
        return self._whole[group]

    def _set(self, number: int, on: Tensor, learns: Tensor) -> None:
        self._whole.clear()
        setattr(self, f"on_{number}", on)
        setattr(self, f"learns_{number}", learns)


@contextmanager
def gated(backbone: nn.Module, gates: Sequence[tuple[Reader, Tensor]]) -> Iterator[None]:
    """Within the block every reader gets its input times a mask.

    Args:
        gates: readers by their names in ``backbone``, with a mask of the group that they read: ``(m,)``, or ``(B, m)``
            for samples with masks of their own.
    """
    with ExitStack() as hooks:
        for reader, mask in gates:
            layer = backbone.get_submodule(reader.layer)
            hooks.callback(layer.register_forward_pre_hook(partial(_gate, mask, reader.repeat)).remove)
        yield


def _gate(mask: Tensor, repeat: int, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *rest = inputs
    mask = mask.to(x.dtype) if repeat == 1 else mask.to(x.dtype).repeat_interleave(repeat, dim=-1)
    channels = 1 if isinstance(layer, nn.modules.conv._ConvNd) else x.dim() - 1
    shape = [1] * x.dim()
    shape[channels] = mask.shape[-1]
    shape[0] = len(mask) if mask.dim() == 2 else 1
    return (x * mask.view(shape), *rest)
