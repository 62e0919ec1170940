"""The losses of a step, pass by pass, as the task-gradient engine wants them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import accumulate, repeat
from typing import Any, Literal

import torch
from torch import Tensor

from pcl.gradients.accumulated import accumulated
from pcl.gradients.dense import DensePass, Replayed
from pcl.gradients.dense_gradients import DenseGradients, DenseLoss
from pcl.gradients.grouped import GroupedGradients, Groups
from pcl.gradients.result import TaskGradients
from pcl.gradients.summed import SummedLoss
from pcl.gradients.task_gradients import Strategy, grouped_gradients, task_gradients
from pcl.gradients.workspace import Workspace
from pcl.losses.base import Samples, Slopes
from pcl.memory.base import MemoryBatch
from pcl.models.continual import ContinualModel
from pcl.parts import like
from pcl.streams.stream import MEMORY, memory_of
from pcl.training.loss_terms import LossTerms
from pcl.training.step_data import StepData

Precision = Literal["full", "bf16"]


def in_precision(precision: Precision, model: ContinualModel) -> AbstractContextManager[object]:
    """Forward passes within run in the dtype of the parameters, or under autocast to bfloat16."""
    if precision == "full":
        return nullcontext()
    return torch.autocast(like(model.backbone).device.type, dtype=torch.bfloat16)


@dataclass(frozen=True)
class Pass:
    """Part of a step that fits into memory at once.

    Attributes:
        inputs: of the backbone, by task; see :meth:`pcl.ContinualModel.rows`.
        labels: class numbers, by task.
        losses: by task, from the features, and the logits if they are known, to this part's share of the task's loss.
    """

    inputs: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Callable[..., Tensor]] = field(default_factory=dict)


class StepLosses:
    """loss_i = mean over all samples of task i in this step, of cross-entropy and what loss terms add to it; the
    passes' shares sum to it.

    Pass j takes the j-th batch of every task that has so many, and the j-th part of the recalled samples. The loss of
    these is what :meth:`pcl.training.loss_terms.LossTerms.replayed` says; samples drawn for a term run along behind
    them.
    """

    def __init__(self, model: ContinualModel, data: StepData, terms: LossTerms) -> None:
        self._model = model
        self._terms = terms
        self._seen = data.seen
        self._logits: dict[str, list[Tensor]] = {task: [] for task in data.batches}
        self._all_logits: Tensor | None = None  # of all samples, where they were found together
        self._judged: dict[str, MemoryBatch] = {}  # rows of the last pass that a term says the losses of
        self._led_by: dict[str, int] = {}  # how many of retrieval stand before them
        recalled, drawn = data.recalled, data.drawn
        counts = [len(batches) for batches in data.batches.values()]
        if recalled is not None:
            counts.append(_parts(recalled.y.shape[0], data.memory_batch))
        self.passes = [Pass() for _ in range(max(counts))]
        for task, batches in data.batches.items():
            samples = sum(y.shape[0] for _, y in batches)
            for number, (now, (x, y)) in enumerate(zip(self.passes, batches, strict=False)):
                now.inputs[task], now.labels[task] = model.window(x, task), y
                bound = model, terms, self._logits[task], number, task, x, y, y.shape[0] / samples
                now.losses[task] = partial(_batch_loss, *bound)
        if recalled is not None and recalled.sizes is None:
            self._replay(MEMORY, recalled, drawn, 0, recalled.y.shape[0], data.memory_batch)
        elif recalled is not None and recalled.sizes is not None:
            first = 0
            for old, size in zip(recalled.names, recalled.sizes, strict=True):
                rows = _parts(size, counts[-1])  # of each pass
                self._replay(memory_of(old), recalled, drawn, first, first + size, rows, old)
                first += size
            self.passes = [now for now in self.passes if now.inputs]  # every task has a sample, however many there are

    def _replay(
        self,
        name: str,
        recalled: MemoryBatch,
        drawn: MemoryBatch | None,
        first: int,
        end: int,
        size: int,
        old: str | None = None,
    ) -> None:
        """Add rows of the memory to the passes, as many of them at a time; all of the task ``old``, or of any."""
        others = repeat(None) if drawn is None else _split(drawn, first, end, size)
        for now, part, other in zip(self.passes, _split(recalled, first, end, size), others, strict=False):
            self._judged[name], count = part if other is None else other, part.y.shape[0]
            if other is not None:
                self._led_by[name], part = count, part.with_rows(other)
            now.inputs[name], now.labels[name] = self._model.rows(part.x, part.names, part.task), part.y
            bound = self._model, self._terms, name, part, count, count / (end - first), old
            now.losses[name] = partial(_memory_loss, *bound)

    def gradients(
        self,
        shared: Sequence[Tensor],
        own: Sequence[Tensor],
        *,
        apart: bool,
        groups: Groups | None = None,
        strategy: Strategy,
        workspace: Workspace,
    ) -> TaskGradients | SummedLoss | DenseLoss | GroupedGradients:
        """What the engine finds for these losses.

        Args:
            shared: parameters on which the tasks may conflict.
            own: those that follow the sum of all losses.
            apart: whether anything of single tasks' gradients will be asked for; else, and with one pass, a single
                backward pass does.
            groups: of tasks whose mean gradient is to be found in place of their own. Several passes find those of the
                tasks all the same, and add them up.
            strategy, workspace: see :func:`pcl.task_gradients`.
        """
        model: Callable[[Any], Tensor] = self._model.backbone
        if self._model.by_task:  # the inputs are more than tensors of rows, so that one pass does not do
            model, strategy = self._model.encode, "loop" if strategy == "auto" else strategy
        alone = len(self.passes[0].losses) == 1  # there is nothing to keep apart, the loop has one pass too
        dense = self._dense() if strategy == "auto" and not (apart and alone) else None
        if dense is not None and not apart:
            return DenseLoss(dense, shared, own)
        if dense is not None:
            of_tasks = DenseGradients(dense, shared, own, workspace)
            return of_tasks if groups is None else GroupedGradients.of_tasks(of_tasks, groups)
        if not apart and len(self.passes) == 1:
            return SummedLoss(
                self.passes[0].losses, shared, own, model=model, inputs=self.passes[0].inputs, workspace=workspace,
                together=self._together if self._terms.of_parameters_alone and self._model.shares_columns else None,
            )  # fmt: skip
        if groups is not None and len(self.passes) == 1:
            return grouped_gradients(
                self.passes[0].losses, shared, own, groups, model=model, inputs=self.passes[0].inputs,
                root=self._model, strategy=strategy, workspace=workspace,
            )  # fmt: skip
        each_pass = (
            task_gradients(
                now.losses, shared, own, model=model, inputs=now.inputs, root=self._model,
                strategy=strategy, workspace=workspace,
            )
            for now in self.passes
        )  # fmt: skip
        found = next(each_pass) if len(self.passes) == 1 else accumulated(each_pass)
        return found if groups is None else GroupedGradients.of_tasks(found, groups)

    @torch.no_grad()
    def values(self) -> Tensor:
        """The losses ``(k,)`` with the parameters as they are now."""
        values: dict[str, Tensor] = {}
        for now in self.passes:
            for task, loss_of in now.losses.items():
                loss = loss_of(self._model.encode(now.inputs[task]))
                values[task] = values[task] + loss if task in values else loss
        return torch.stack(list(values.values()))

    def logits(self) -> dict[str, list[Tensor]]:
        """Of every task's batches ``(B, columns)``, as :meth:`gradients` has found them."""
        if self._all_logits is None:
            return self._logits
        ends = list(accumulate(y.shape[0] for y in self.passes[0].labels.values()))
        starts = zip(self._logits, [0, *ends], ends, strict=False)  # the memory's come last
        return {task: [self._all_logits.narrow(0, start, end - start)] for task, start, end in starts}

    def _dense(self) -> DensePass | None:
        """All tasks in one pass without a graph, where model and losses allow it."""
        if len(self.passes) > 1 or not self._terms.of_logits_alone:
            return None
        now, replays, slopes = self.passes[0], self._terms.replays, self._terms.slopes
        replayed = {}
        if replays is not None and slopes is not None:
            replayed = {name: Replayed(replays.cross_entropy, self._led_by.get(name)) for name in self._judged}
        dense = self._model.dense() if self._seen is None else self._seen.model
        run = DensePass.of(self._model, dense, now.inputs, now.labels, replayed, seen=self._seen)
        if run is not None and slopes is not None:
            for name in replayed:
                run.replay(name, partial(self._slopes, slopes, name))
        elif run is not None and not self._terms.of_parameters_alone:
            run.follow(self.passes[0].losses)
        self._all_logits = None if run is None else run.logits
        return run

    def _slopes(self, term: Slopes, name: str, features: Tensor, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """What the term says of its rows of the memory."""
        part = self._judged[name]
        return term.slopes(Samples(self._model, name, part.x, part.y, features, part, logits))

    def _together(self, features: Tensor) -> Tensor:
        """All losses ``(k,)`` of a step in one pass, from the features of all samples: one head, one cross-entropy."""
        labels = self.passes[0].labels
        sizes, task = [len(y) for y in labels.values()], next(iter(labels))
        logits = self._model.logits(features, task)
        losses = self._model.logit_losses(logits, torch.cat(list(labels.values())), task)
        self._all_logits = logits.detach()
        if sizes.count(sizes[0]) == len(sizes):
            return losses.view(len(sizes), -1).mean(dim=1)
        return torch.stack([part.mean() for part in losses.split(sizes)])


# Bound by partial() to what they need, and not to the step: it knows its losses, and a cycle would keep all its tensors
# until the garbage collector comes by.


def _batch_loss(
    model: ContinualModel, terms: LossTerms, found: list[Tensor], number: int, task: str, x: Tensor, y: Tensor,
    share: float, features: Tensor, logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The share of a task's batch in its loss; the logits go to place ``number`` of those ``found``."""
    samples = Samples(model, task, x, y, features, known=logits)
    found[number:] = [samples.logits.detach()]  # of several runs, as on trial, the last
    losses = model.logit_losses(samples.logits, y, task)
    return _scaled(terms.add_to(losses, samples).mean(), share)


def _memory_loss(
    model: ContinualModel, terms: LossTerms, name: str, part: MemoryBatch, count: int, share: float, old: str | None,
    features: Tensor, logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The share of recalled samples, all of the task ``old`` or of any, in the loss of the memory."""

    def cross_entropy() -> Tensor:
        if model.shares_columns:
            return model.logit_losses(samples.logits, part.y, part.names[0])
        if old is not None:
            return model.feature_losses(features, part.y, old)
        return model.mixed_feature_losses(features, part.y, part.task, part.names)

    samples = Samples(model, name, part.x, part.y, features, part, logits)
    return _scaled(terms.replayed(cross_entropy, samples, count), share)


def _split(recalled: MemoryBatch, first: int, end: int, size: int) -> Iterator[MemoryBatch]:
    """The rows from ``first`` to ``end``, so many at a time."""
    if end - first == recalled.y.shape[0] <= size:
        yield recalled if recalled.sizes is None else replace(recalled, sizes=None)
        return
    by_row = {f.name: getattr(recalled, f.name) for f in fields(recalled)}
    by_row = {name: value for name, value in by_row.items() if isinstance(value, Tensor)}
    for start in range(first, end, size):
        rows = slice(start, min(start + size, end))
        yield replace(recalled, **{name: value[rows] for name, value in by_row.items()}, sizes=None)


def _parts(count: int, size: int) -> int:
    """How many parts of ``size`` it takes for ``count``."""
    return -(-count // size)


def _scaled(loss: Tensor, share: float) -> Tensor:
    return loss if share == 1.0 else share * loss
