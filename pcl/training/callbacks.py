"""Callbacks: objects with any of these methods, called by the trainer.

on_fit_start(trainer)             fit begins
on_task_start(trainer, task)      a task takes part for the first time
on_step(trainer, record)          a step has been made; ``record``: see step_result.step_record
on_evaluation(trainer, record)    {"kind": "eval", "step": k, "accuracy": {task: a_k^task}}
on_growth(trainer, record)        the network has grown; ``record``: see pcl.training.growth
after_step(trainer)               everything of a step is done; the state is fit for a checkpoint
on_task_end(trainer, task)        a stream has ended; its samples are in the memory
on_fit_end(trainer)               fit ends, also by an exception

What they have seen is lost when a run is killed, but for those that are :class:`Remembering`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pcl.training.step_result import StepResult, step_record

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer

HOOKS = (
    "on_fit_start",
    "on_task_start",
    "on_step",
    "on_evaluation",
    "on_growth",
    "after_step",
    "on_task_end",
    "on_fit_end",
)


@runtime_checkable
class Remembering(Protocol):
    """What a callback has whose state is part of checkpoints; it must be there before one is loaded."""

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on from a checkpoint, as plain values."""

    def state_dict(self) -> dict[str, Any]:
        """State as plain values and tensors."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that :meth:`state_dict` gave."""


class Callbacks:
    """Calls the hooks that the given objects have, in the order of the objects.

    Raises:
        TypeError: for an object that has none of them, most likely a misspelt method.
    """

    def __init__(self, callbacks: Sequence[object] = ()) -> None:
        self._callbacks: tuple[object, ...] = ()
        self.add(callbacks)

    def add(self, callbacks: Sequence[object]) -> None:
        """Add objects behind those already there."""
        for callback in callbacks:
            if not any(hasattr(callback, hook) for hook in HOOKS):
                raise TypeError(f"callback {type(callback).__name__}: expected one of the methods {', '.join(HOOKS)}")
        self._callbacks += tuple(callbacks)

    @property
    def remembering(self) -> list[Remembering]:
        """Those with a state, in their order."""
        return [callback for callback in self._callbacks if isinstance(callback, Remembering)]

    def call(self, hook: str, *arguments: object) -> None:
        """Call ``hook`` wherever it exists."""
        for callback in self._callbacks:
            method = getattr(callback, hook, None)
            if method is not None:
                method(*arguments)

    def step(self, trainer: "Trainer", result: StepResult) -> None:
        """Call ``on_step``; the record, for which a GPU would have to be waited for, is made only if wanted."""
        if any(hasattr(callback, "on_step") for callback in self._callbacks):
            self.call("on_step", trainer, step_record(result))
