"""Tasks begin and end: what happens to streams at the beginning of a step."""

from typing import TYPE_CHECKING

from torch import Tensor

from pcl import parts
from pcl.memory.base import Prepares
from pcl.streams.stream import Batch, Stream
from pcl.training.arguments import check_trainable
from pcl.training.intake import read_batches

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


def next_batches(trainer: "Trainer") -> tuple[dict[str, list[Batch]], dict[str, Tensor | None]]:
    """Batches of every active stream that takes part, and flags of what could not be looked at in them.

    Streams that are over or dry end here, those that come first begin.
    """
    model, active, shape = trainer.model, trainer.active, trainer._shape
    check_trainable(model)
    like = parts.like(model.backbone)
    drawn = _drawn(trainer, active)
    batches: dict[str, list[Batch]] = {}
    faults: dict[str, Tensor | None] = {}
    over: list[Stream] = []
    for task, stream in trainer.streams.items():
        if _is_over(stream, trainer.step_count):
            over.append(stream)
        elif task in drawn or (task in active and stream.peek() is None):
            found, faults[task] = read_batches(stream, trainer.accumulate, shape, like.dtype, like.device)
            if found:
                batches[task], shape = found, found[-1][0].shape[1:]
            elif task in model.tasks:
                over.append(stream)
            else:
                raise ValueError(f"stream {task!r}: its source is empty; at least one batch is needed")
    new = [task for task in batches if task not in model.tasks]
    for task in new:
        model.check_input(batches[task][0][0][:1], task)
        if isinstance(trainer.memory, Prepares):
            trainer.memory.prepare(task, *batches[task][0])

    for stream in over:
        stream.end()
    _finish_ended(trainer)
    for task in new:
        parameters = model.add_task(task, trainer.streams[task].classes)
        if parameters:
            trainer.optimizer.add_param_group({"params": parameters})
        trainer._callbacks.call("on_task_start", trainer, task)
    for task in batches:
        if trainer.streams[task].begin_epoch():
            model.restart(task)
    return batches, faults


def _drawn(trainer: "Trainer", active: tuple[str, ...]) -> tuple[str, ...]:
    """The active tasks that take part in this step."""
    if trainer.sampling is None:
        return active
    streams = [trainer.streams[task] for task in active]
    with_data = [s for s in streams if not _is_over(s, trainer.step_count) and s.peek() is not None]
    return trainer.sampling.draw(with_data, trainer.step_count)


def _is_over(stream: Stream, step: int) -> bool:
    return stream.last_step is not None and step > stream.last_step and not stream.ended


def _finish_ended(trainer: "Trainer") -> None:
    ended = [
        task
        for task, stream in trainer.streams.items()
        if stream.ended and task in trainer._last_trained and task not in trainer.ended_at
    ]
    if ended:
        trainer._guard.look(wait=True)
        if trainer._graph is not None:
            trainer._graph.drop()
    for task in ended:
        trainer.ended_at[task] = trainer._last_trained[task]
        trainer.model.task_ended(task)
        trainer.weighting.forget(task)
        if trainer.memory is not None:
            trainer.memory.commit(task)
        assert trainer._shape is not None
        trainer.loss_terms.task_ended(task, trainer.memory, trainer._shape)
    if ended:
        found = trainer.evaluate(anew=trainer.inference is not None)
        trainer.at_end.update({task: found[task] for task in ended if task in found})
    for task in ended:
        trainer._callbacks.call("on_task_end", trainer, task)
