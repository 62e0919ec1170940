"""What a checkpoint holds of a trainer, and how a trainer takes it over."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from pcl.memory.before_update import placement
from pcl.randomness import global_generators, set_global_generators

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


def _composition(trainer: "Trainer") -> dict[str, Any]:
    """What must be the same in a run that goes on from a checkpoint."""
    callbacks = trainer._callbacks.remembering
    return {
        "setting": trainer.model.setting,
        "head": None if trainer.model.head is None else asdict(trainer.model.head),
        "carry": trainer.model.carry,
        "backbone": trainer.model.architecture(),
        "optimizer": type(trainer.optimizer).__name__,
        "weighting": type(trainer.weighting).__name__,
        "memory": None if trainer.memory is None else trainer.memory.settings(),
        "retrieval": None if trainer.retrieval is None else trainer.retrieval.settings(),
        "edit": None if trainer.edit is None else placement(trainer.edit),
        "inference": None if trainer.inference is None else trainer.inference.settings(),
        "loss terms": trainer.loss_terms.settings(),
        "gradients_over": trainer.gradients_over,
        "memory_batch": trainer.memory_batch,
        "sampling": None if trainer.sampling is None else trainer.sampling.settings(),
        "memory_tasks": trainer.memory_tasks,
        "accumulate": trainer.accumulate,
        "clip": trainer.clip,
        "gramian": trainer.gramian,
        "strategy": trainer.strategy,
        "precision": trainer.precision,
        "streams": {task: list(trainer.streams[task].classes) for task in sorted(trainer.streams)},
        **({"callbacks": [[type(c).__name__, c.settings()] for c in callbacks]} if callbacks else {}),
    }


def trainer_state(trainer: "Trainer") -> dict[str, Any]:
    """See :meth:`pcl.Trainer.state_dict`."""
    callbacks = trainer._callbacks.remembering
    return {
        "composition": _composition(trainer),
        "tasks": [[task, list(classes)] for task, classes in trainer.model.task_classes.items()],
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "weighting": trainer.weighting.state_dict(),
        "memory": None if trainer.memory is None else trainer.memory.state_dict(),
        "edit": None if trainer.edit is None else trainer.edit.state_dict(),
        "loss terms": trainer.loss_terms.state_dict(),
        "streams": {task: stream.state_dict() for task, stream in trainer.streams.items()},
        "step_count": trainer.step_count,
        "history": list(trainer.history),
        "ended_at": dict(trainer.ended_at),
        "at_end": dict(trainer.at_end),
        "last_trained": dict(trainer._last_trained),
        "shape": None if trainer._shape is None else list(trainer._shape),
        "retrieval": trainer._retrieval.get_state(),
        "storage": trainer._storage.get_state(),
        "global generators": global_generators(trainer.device),
        **({"callbacks": [c.state_dict() for c in callbacks]} if callbacks else {}),
    }


def restore_trainer(trainer: "Trainer", state: dict[str, Any]) -> None:
    """See :meth:`pcl.Trainer.load_state_dict`."""
    if set(state) - {"callbacks"} != set(trainer_state(trainer)) - {"callbacks"}:
        raise ValueError(f"resume: expected what Trainer.state_dict gives, got a dict of {sorted(state)[:6]}")
    if trainer.step_count or trainer.model.tasks:
        raise ValueError("resume: this trainer has trained already; load into a new one")
    mine, saved = _composition(trainer), state["composition"]
    for what in {**mine, **saved}:
        if mine.get(what) != saved.get(what):
            raise ValueError(
                f"resume: another {what}: the checkpoint has {saved.get(what)}, this trainer {mine.get(what)}"
            )
    trainer.weighting.load_state_dict(state["weighting"])
    trainer.streams = {task: trainer.streams[task] for task in state["streams"]}  # their order is the order of draws
    for task, stream in trainer.streams.items():
        stream.load_state_dict(state["streams"][task])
    if trainer.memory is not None:
        trainer.memory.load_state_dict(state["memory"], trainer.device)
    if trainer.edit is not None:
        trainer.edit.load_state_dict(state["edit"])
    trainer.loss_terms.load_state_dict(state["loss terms"])
    for task, classes in state["tasks"]:
        new = trainer.model.add_task(task, classes)
        if new:
            trainer.optimizer.add_param_group({"params": new})
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.step_count, trainer.history = state["step_count"], list(state["history"])
    trainer.ended_at, trainer.at_end = dict(state["ended_at"]), dict(state["at_end"])
    trainer._last_trained = dict(state["last_trained"])
    trainer._shape = None if state["shape"] is None else torch.Size(state["shape"])
    trainer._retrieval.set_state(state["retrieval"])
    trainer._storage.set_state(state["storage"])
    for callback, remembered in zip(trainer._callbacks.remembering, state.get("callbacks", []), strict=True):
        callback.load_state_dict(remembered)
    set_global_generators(state["global generators"], trainer.device)
