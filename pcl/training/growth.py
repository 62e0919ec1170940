"""When a network grows in the middle of training, for which tasks, and on which samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from pcl.models.growth.choice import Budget
from pcl.models.growth.firefly import Firefly, refuse_new_layers
from pcl.models.growth.growing import GrowingModel
from pcl.models.growth.plan import GroupGrowth
from pcl.models.modes import evaluation_mode
from pcl.streams.stream import Batch
from pcl.training.intake import read_batches

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer

Trigger = Literal["task", "plateau", "every", "manual"]
_Samples = Mapping[str, Sequence[Batch]]
Solved = Callable[["Trainer", str], bool]


@dataclass(frozen=True)
class GrowWhen:
    """When running tasks are due to grow.

    Attributes:
        trigger: ``"task"``: once, when the task has trained for ``steps`` steps, in which it learns which of the
            neurons there are it can use; ``"plateau"``: whenever the mean loss of its last ``steps`` steps is not below
            ``1 - fall`` times that of the ``steps`` before; ``"every"``: whenever it has trained for ``steps`` steps
            since it began or grew; ``"manual"``: when :meth:`Grow.now` is called.
        steps: see above.
        fall: see above.
        loss: a task whose mean loss over its last ``steps`` steps is at most that is solved, and does not grow.
        accuracy: likewise for one whose accuracy on its test data, as last measured, is at least that, 0 to 1.
        solved: likewise for one of which this function of the trainer and the task says so.
        most: how often a task grows at most.

    Raises:
        ValueError: for an unknown trigger or a number out of range.
    """

    trigger: Trigger = "plateau"
    steps: int = 100
    fall: float = 0.02
    loss: float | None = None
    accuracy: float | None = None
    solved: Solved | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        if self.trigger not in get_args(Trigger):
            raise ValueError(f"GrowWhen trigger: expected one of {', '.join(get_args(Trigger))}, got {self.trigger!r}")
        for name in ("steps", "most"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"GrowWhen {name}: expected at least 1, got {value}")
        if self.accuracy is not None and not 0 <= self.accuracy <= 1:
            raise ValueError(f"GrowWhen accuracy: expected a share from 0 to 1, and no percent, got {self.accuracy}")
        if not 0 <= self.fall < 1:
            raise ValueError(f"GrowWhen fall: expected a share of the loss, at least 0 and below 1, got {self.fall}")

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on from a checkpoint; functions by their names."""
        named = None if self.solved is None else getattr(self.solved, "__qualname__", type(self.solved).__name__)
        numbers = (self.trigger, self.steps, self.fall, self.loss, self.accuracy)
        return {"when": [*numbers, named, self.most]}


@dataclass
class _Progress:
    """What is known of a task's training since it began or grew."""

    losses: list[float] = field(default_factory=list)  # of the last steps, at most as many as a trigger looks at
    steps: int = 0
    grown: int = 0


class Grow:
    """Callback: lets a :class:`pcl.GrowingModel` grow in training, by Firefly (Bo Liu's dissertation, 2025, Alg. 6).

    Tasks that are due in the same step grow at once, under one budget: candidates are trained and scored on

        sum_t lambda_t loss_t

    over these tasks, with the weights lambda that the Trainer's weighting gave them in that step (the mean where it
    gave no weights, or none above 0). Neurons that no finished task uses may split, those that some finished task uses
    may be copied, and new ones come; see :meth:`pcl.GrowingModel.grow`. What is chosen is used by the tasks that grow.

    The samples are the next ``batches`` batches of the tasks' streams, of the current epoch. They stay next, so that
    training sees them all the same, and a run that is resumed grows in the same way to the bit.

    Stored samples of finished tasks are left out of rehearsal, as nothing that they use changes: a memory that holds no
    others, such as :class:`pcl.ClassMemory`, is refused beside a growing model; a :class:`pcl.ReservoirMemory` also
    holds those of running tasks.

    Give it to the Trainer with the other callbacks, before those that save checkpoints; its state is part of them.

    Args:
        firefly: how candidates are made, trained and scored.
        budget: of every growth.
        when: which tasks grow when.
        batches: of every task for a growth, at most.

    Raises:
        ValueError: for batches < 1, or a budget of new layers, which would belong to all tasks at once.
    """

    def __init__(self, firefly: Firefly, budget: Budget, when: GrowWhen | None = None, *, batches: int = 8) -> None:
        if batches < 1:
            raise ValueError(f"Grow batches: expected at least 1, got {batches}")
        refuse_new_layers("Grow", firefly, budget)
        self.firefly = firefly
        self.budget = budget
        self.when = GrowWhen() if when is None else when
        self.batches = batches
        self._tasks: dict[str, _Progress] = {}
        self._weights: dict[str, float] = {}  # of the last step

    # ---- hooks

    def on_fit_start(self, trainer: "Trainer") -> None:
        """Refuse a model that cannot grow."""
        _growing(trainer)

    def on_step(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """See how the running tasks do."""
        self._weights = record["weight"]
        for task in _growing(trainer).running:
            if task in record["loss"]:
                progress = self._tasks.setdefault(task, _Progress())
                progress.losses = [*progress.losses, record["loss"][task]][-2 * self.when.steps :]
                progress.steps += 1

    def after_step(self, trainer: "Trainer") -> None:
        """Grow, if some task is due."""
        due = [task for task in _growing(trainer).running if self._due(task) and not self._solved(trainer, task)]
        if due:
            self.now(trainer, due)

    def on_task_end(self, trainer: "Trainer", task: str) -> None:
        """Forget it."""
        self._tasks.pop(task, None)

    # ---- growth

    def now(self, trainer: "Trainer", tasks: list[str] | None = None) -> dict[str, Any] | None:
        """Let some tasks grow at once, between two steps; all that run if None.

        Returns:
            The record of the growth, as callbacks get it; None if none of the tasks has a batch left to grow on.
            ``kind``, ``step``, ``tasks``; ``gained`` by group, how many neurons were ``split``, ``copied`` and ``new``;
            ``widths``, ``neurons`` and ``parameters`` of backbone and heads before and after, in pairs; ``measured``,
            by how much the objective falls on these samples in evaluation mode, and ``predicted``, the same to first
            order: the sum of the gains of what was chosen.

        Raises:
            TypeError: for a model that cannot grow.
            ValueError: for a task that does not run.
        """
        model = _growing(trainer)
        tasks = list(model.running) if tasks is None else tasks
        unknown = [task for task in tasks if task not in model.running]
        if unknown:
            raise ValueError(
                f"Grow: task {unknown[0]!r} does not run; expected some of {', '.join(model.running) or '-'}"
            )
        trainer._guard.look(wait=True)
        samples = {task: self._peek(trainer, task) for task in tasks}
        samples = {task: batches for task, batches in samples.items() if batches}
        if not samples:
            return None
        weights = self._lambda(samples)
        before, loss = _sizes(model), _loss(model, samples, weights)
        found = model.grow(self.firefly, samples, self.budget, weights=weights, optimizer=trainer.optimizer)
        for task in samples:
            self._tasks[task] = _Progress(grown=self._tasks.get(task, _Progress()).grown + 1)
        after = _sizes(model)
        record = {
            "kind": "growth",
            "step": trainer.step_count - 1,
            "tasks": list(samples),
            "gained": {name: _gained(gain) for name, gain in found.plan.items()},
            "widths": {name: [before["widths"][name], width] for name, width in after["widths"].items()},
            "neurons": [before["neurons"], after["neurons"]],
            "parameters": [before["parameters"], after["parameters"]],
            "predicted": found.predicted,
            "measured": loss - _loss(model, samples, weights),
        }
        trainer._callbacks.call("on_growth", trainer, record)
        return record

    def _peek(self, trainer: "Trainer", task: str) -> list[Batch]:
        stream = trainer.streams[task]
        if task not in trainer.active or (stream.last_step is not None and trainer.step_count > stream.last_step):
            return []
        dtype = next(trainer.model.backbone.parameters()).dtype
        return read_batches(stream, self.batches, trainer._shape, dtype, trainer.device)[0]

    def _lambda(self, tasks: Mapping[str, Any]) -> dict[str, float]:
        weights = {task: self._weights.get(task, 0.0) for task in tasks}
        if all(0 <= weight < float("inf") for weight in weights.values()) and any(weights.values()):
            return weights
        return dict.fromkeys(tasks, 1 / len(tasks))

    # ---- when

    def _due(self, task: str) -> bool:
        progress, when = self._tasks.get(task, _Progress()), self.when
        if when.trigger == "manual" or (when.most is not None and progress.grown >= when.most):
            return False
        if when.trigger == "task":
            return progress.grown == 0 and progress.steps >= when.steps
        if when.trigger == "every":
            return progress.steps >= when.steps
        earlier, later = progress.losses[: -when.steps], progress.losses[-when.steps :]
        return len(earlier) == when.steps and fmean(later) >= (1 - when.fall) * fmean(earlier)

    def _solved(self, trainer: "Trainer", task: str) -> bool:
        when, losses = self.when, self._tasks[task].losses[-self.when.steps :]
        if when.loss is not None and fmean(losses) <= when.loss:
            return True
        measured = next((e["accuracy"][task] for e in reversed(trainer.history) if task in e["accuracy"]), 0.0)
        if when.accuracy is not None and measured >= when.accuracy:
            return True
        return when.solved is not None and when.solved(trainer, task)

    # ---- checkpoints

    def settings(self) -> dict[str, Any]:
        """What must be the same in a run that goes on from a checkpoint."""
        return {**self.when.settings(), **vars(self.firefly), "budget": vars(self.budget), "batches": self.batches}

    def state_dict(self) -> dict[str, Any]:
        """What is known of the tasks."""
        tasks = {task: [list(p.losses), p.steps, p.grown] for task, p in self._tasks.items()}
        return {"tasks": tasks, "weights": dict(self._weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that :meth:`state_dict` gave."""
        self._tasks = {task: _Progress(*progress) for task, progress in state["tasks"].items()}
        self._weights = dict(state["weights"])


def _growing(trainer: "Trainer") -> GrowingModel:
    if not isinstance(trainer.model, GrowingModel):
        raise TypeError(
            f"Grow: expected a GrowingModel, whose tasks have masks, got {type(trainer.model).__name__}; build the "
            "Trainer with pcl.GrowingModel(backbone, features, example)"
        )
    return trainer.model


def _sizes(model: GrowingModel) -> dict[str, Any]:
    return {"widths": model.widths, "neurons": sum(model.widths.values()), "parameters": model.size()}


def _gained(gain: GroupGrowth) -> dict[str, int]:
    return {"split": len(gain.split), "copied": len(gain.copied), "new": gain.new}


@torch.no_grad()
def _loss(model: GrowingModel, samples: _Samples, weights: Mapping[str, float]) -> float:
    """sum_t weights_t loss_t, the loss of a task being its mean over its batches."""
    with evaluation_mode(model):
        means = [torch.stack([model.losses(x, y, t).mean() for x, y in some]).mean() for t, some in samples.items()]
    return float(sum(weights[t] * mean for t, mean in zip(samples, means, strict=True)))
