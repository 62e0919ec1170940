"""What a loss term is: a penalty on the parameters, or losses of samples beside those of their task."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pcl.gradients.result import Gradient
from pcl.memory.base import Memory, MemoryBatch
from pcl.models.continual import ContinualModel


class LossTerm(Protocol):
    """What all terms have in common. Streams run in parallel, so that a task may end while others go on to train.

    Nothing of a term changes in a step before its update has been made, and nothing if a step is refused.

    Attributes:
        capturable: whether its part of a step can be captured in a CUDA graph and replayed: all work is tensor work on
            the device, and what it reads or writes stays where it is until a task ends.
    """

    capturable: bool

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on from a checkpoint, as plain values."""
        ...

    def observe(self, task: str, x: Tensor, y: Tensor) -> None:
        """A batch ``(B, ...)``, ``(B,)`` of a task in training has been used, in its first epoch."""
        ...

    def task_ended(self, model: ContinualModel, task: str) -> None:
        """The task has ended; the model is as its last step left it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State as plain values and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any], model: ContinualModel) -> None:
        """Take over a state that :meth:`state_dict` gave.

        Args:
            model: of the run, as it was before any task began.
        """
        ...


@runtime_checkable
class Penalty(LossTerm, Protocol):
    """A function of the parameters alone, in closed form.

    The Trainer adds its gradient once to the direction d that the weighting has chosen, which is the same as adding the
    penalty to every task's loss wherever the weights sum to 1. The Gramian, the weights and the recorded losses so
    remain those of the data; clipping and edits of the memory see d with the penalty. A parameter that no loss of a
    step reaches rests in it, whatever the penalty says.
    """

    def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
        """Its gradient, one tensor per parameter, None for one that it does not know.

        Args:
            parameters: by their names in the model.
        """
        ...

    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Its value, a scalar."""
        ...


@runtime_checkable
class FollowsPath(Protocol):
    """What a term has that learns from the updates themselves."""

    def follow(self, parameters: Mapping[str, Tensor], before: list[Tensor], gradient: Gradient) -> None:
        """An update has been made.

        Args:
            parameters: after it.
            before: the same before it.
            gradient: what the data said, without penalties and not clipped; 0 where a GPU has left out the update
                because something was not finite.
        """
        ...


@dataclass(frozen=True)
class Samples:
    """Samples of one task in a step, or of the memory, as a :class:`SampleTerm` sees them.

    Attributes:
        model: in training; ``model.logits(features, task)`` are the logits of any task.
        task: name of the task, ``MEMORY`` or ``"memory:<task>"``.
        x, y: ``(B, ...)``, ``(B,)`` class numbers.
        features: ``(B, features)``, what the backbone made of x.
        recalled: for samples of the memory, all that it knows of these rows; else None.
        known: the logits, where they have been found without a graph behind them: then gradients go to them alone.
    """

    model: ContinualModel
    task: str
    x: Tensor
    y: Tensor
    features: Tensor
    recalled: MemoryBatch | None = None
    known: Tensor | None = None

    @cached_property
    def logits(self) -> Tensor:
        """Of every sample in the columns of its own task; see :meth:`pcl.ContinualModel.mixed_logits`."""
        if self.known is not None:
            return self.known
        if self.recalled is None:
            return self.model.logits(self.features, self.task)
        return self.model.mixed_logits(self.features, self.recalled.task, self.recalled.names)


@runtime_checkable
class SampleTerm(LossTerm, Protocol):
    """Losses of samples; they belong to the task's loss, and so to its gradient and to the Gramian.

    One whose losses depend on parameters through ``samples.logits`` alone may say so, ``of_logits = True``: models
    that have a way without a graph then take it.
    """

    def losses(self, samples: Samples) -> Tensor | None:
        """To be added to the losses of these samples, ``(B,)``; None for nothing."""
        ...


@runtime_checkable
class Slopes(Protocol):
    """What a term has that says how the memory is replayed, adds nothing to the losses of streams, and knows its
    derivatives, so that no graph is needed for them."""

    def slopes(self, samples: Samples) -> tuple[Tensor, Tensor] | None:
        """Of samples of the memory the mean of their losses, a scalar, and its derivative with respect to the logits
        ``(B, columns)``; None for nothing."""
        ...


@runtime_checkable
class Replays(Protocol):
    """What a :class:`SampleTerm` has that says how the memory is replayed. A trainer has one such term at most.

    Attributes:
        cross_entropy: factor of the recalled samples' own cross-entropy in the loss of the memory; 0 leaves it out.
        own_draw: whether the term's losses in the memory are those of other samples than the recalled ones, drawn at
            random for it, as many; the memory's loss is then the sum of both means.
        needs_logits: whether the memory must keep logits.
    """

    cross_entropy: float
    own_draw: bool
    needs_logits: bool


@runtime_checkable
class LooksAhead(Protocol):
    """What a term has that depends on where a step would lead, and on the memory at the end of a task."""

    def gradient_ahead(self, model: ContinualModel, parameters: Mapping[str, Tensor], gradient: Gradient) -> Gradient:
        """To be added to the direction, as the gradient of a :class:`Penalty` is.

        Args:
            parameters: by their names in the model.
            gradient: the direction of the data, without penalties and not clipped.
        """
        ...

    def anchor(self, model: ContinualModel, task: str, memory: Memory | None, shape: torch.Size) -> None:
        """The task has ended, and the memory knows it; ``shape`` is that of a sample. Before ``task_ended``."""
        ...


@runtime_checkable
class ChecksModel(Protocol):
    """What a term has that does not work with every model."""

    def check_model(self, model: ContinualModel) -> None:
        """Refuse it, before any step.

        Raises:
            ValueError: saying why.
        """
        ...


class Unobserving:
    """The method of a term that does not look at batches when they have been used."""

    def observe(self, task: str, x: Tensor, y: Tensor) -> None:
        """Nothing is kept."""


def check_strength(name: str, strength: float) -> None:
    """Refuse a factor that is not a finite number above 0.

    Raises:
        ValueError: if it is not.
    """
    if not 0 < strength < float("inf"):
        raise ValueError(f"{name}: expected a finite strength above 0, got {strength}; leave the term out for none")
