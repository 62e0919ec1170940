"""The loss terms of a trainer, as the parts of a step use them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pcl.gradients.result import Gradient
from pcl.losses.base import (
    ChecksModel,
    FollowsPath,
    LooksAhead,
    LossTerm,
    Penalty,
    Replays,
    Samples,
    SampleTerm,
    Slopes,
)
from pcl.memory.base import Memory
from pcl.models.continual import ContinualModel


class LossTerms:
    """Any number of terms, each on its own; the sums of what they say.

    Args:
        model: whose parameters they concern.
        terms: penalties and terms of samples.

    Raises:
        TypeError: for anything else, such as a name or a class.
        ValueError: if two of them say how the memory is replayed, or one does not work with the model.
    """

    def __init__(self, model: ContinualModel, terms: Sequence[LossTerm]) -> None:
        for term in terms:
            if isinstance(term, type) or not isinstance(term, (Penalty, SampleTerm)):
                raise TypeError(f"trainer: expected loss terms, such as pcl.EWC(100.0), got {term!r}")
            if isinstance(term, ChecksModel):
                term.check_model(model)
        self._model = model
        self._terms = tuple(terms)
        self._penalties = [term for term in terms if isinstance(term, Penalty)]
        self._of_samples = [term for term in terms if isinstance(term, SampleTerm)]
        self.of_parameters_alone = not self._of_samples
        self.of_logits_alone = all(getattr(term, "of_logits", False) for term in self._of_samples)
        self._looking_ahead = [term for term in terms if isinstance(term, LooksAhead)]
        self._following = [term for term in terms if isinstance(term, FollowsPath)]
        self.of_losses_alone = not (self._penalties or self._looking_ahead or self._following)
        self._names: dict[nn.Parameter, str] = {}
        replaying = [term for term in self._of_samples if isinstance(term, Replays)]
        if len(replaying) > 1:
            kinds = " and ".join(type(term).__name__ for term in replaying)
            raise ValueError(f"trainer: {kinds} both say how the memory is replayed; leave one of them out")
        self.replays: Replays | None = replaying[0] if replaying else None
        alone = self._of_samples[0] if len(self._of_samples) == 1 else None
        self.slopes: Slopes | None = alone if isinstance(alone, Slopes) and isinstance(alone, Replays) else None

    def __iter__(self) -> Iterator[LossTerm]:
        return iter(self._terms)

    def add_to(self, losses: Tensor, samples: Samples) -> Tensor:
        """The losses ``(B,)`` of these samples with what the terms add."""
        for term in self._of_samples:
            added = term.losses(samples)
            losses = losses if added is None else losses + added
        return losses

    def replayed(self, cross_entropy: Callable[[], Tensor], samples: Samples, count: int) -> Tensor:
        """The loss of samples of the memory, a scalar.

        Args:
            cross_entropy: gives that of the samples, ``(B,)``.
            samples: those of retrieval, and behind them those that a term of :class:`pcl.losses.base.Replays` has
                for itself, if it has some.
            count: how many are of retrieval.
        """
        factor = 1.0 if self.replays is None else self.replays.cross_entropy
        losses = factor * cross_entropy()[:count] if factor else samples.features.new_zeros(count)
        mean_of_own: Tensor | None = None
        replaying: object = self.replays
        for term in self._of_samples:
            added = term.losses(samples)
            if added is not None and term is replaying and count < len(added):
                mean_of_own = added[count:].mean()
            elif added is not None:
                losses = losses + added[:count]
        return losses.mean() if mean_of_own is None else losses.mean() + mean_of_own

    def penalised(self, parameters: Sequence[nn.Parameter], gradient: Gradient) -> Gradient:
        """The gradient with those of the penalties added, in new tensors; None stays None."""
        if not (self._penalties or self._looking_ahead):
            return gradient
        named, of_data = self._named(parameters), gradient
        forces = [penalty.gradient(named) for penalty in self._penalties]
        forces += [term.gradient_ahead(self._model, named, of_data) for term in self._looking_ahead]
        for force_of in forces:
            pairs = enumerate(zip(gradient, force_of, strict=True))
            pulled = {i: (g, force) for i, (g, force) in pairs if g is not None and force is not None}
            if pulled:
                sums = torch._foreach_add(*map(list, zip(*pulled.values(), strict=True)))
                total = dict(zip(pulled, sums, strict=True))
                gradient = [total.get(i, g) for i, g in enumerate(gradient)]
        return gradient

    @contextmanager
    def following(self, parameters: Sequence[nn.Parameter], gradient: Gradient, bad: Tensor | None) -> Iterator[None]:
        """Show the update that is made in the block to those who learn from it; where ``bad`` is 1, it is not made."""
        if not self._following:
            yield
            return
        before = [p.detach().clone() for p in parameters]
        yield
        if bad is not None:  # infinity times no movement would be NaN
            gradient = [None if g is None else torch.where(bad > 0, 0.0, g) for g in gradient]
        for term in self._following:
            term.follow(self._named(parameters), before, gradient)

    def observe(self, task: str, x: Tensor, y: Tensor) -> None:
        """A batch has been used."""
        for term in self._terms:
            term.observe(task, x, y)

    def task_ended(self, task: str, memory: Memory | None, shape: torch.Size) -> None:
        """A task has ended, after ``memory`` was told; ``shape`` is that of a sample."""
        for ahead in self._looking_ahead:
            ahead.anchor(self._model, task, memory, shape)
        for term in self._terms:
            term.task_ended(self._model, task)

    def settings(self) -> list[list[Any]]:
        """Kind and settings of every term."""
        return [[type(term).__name__, term.settings()] for term in self._terms]

    def state_dict(self) -> list[dict[str, Any]]:
        """The states of all terms."""
        return [term.state_dict() for term in self._terms]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Take over states of the same terms; the model has no tasks yet."""
        for term, state in zip(self._terms, states, strict=True):
            term.load_state_dict(state, self._model)

    def _named(self, parameters: Sequence[nn.Parameter]) -> Mapping[str, Tensor]:
        if any(p not in self._names for p in parameters):
            self._names = {p: name for name, p in self._model.named_parameters()}
        return {self._names[p]: p for p in parameters}
