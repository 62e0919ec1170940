"""The training loop: Algorithm 1 of Lyu et al., arXiv 2401.01054, for any weighting, memory and edit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcl import parts
from pcl.gradients.clip import clipped
from pcl.gradients.result import TaskGradients
from pcl.gradients.task_gradients import Strategy
from pcl.gradients.workspace import Workspace
from pcl.inference.base import Inference
from pcl.losses.base import LossTerm
from pcl.memory.base import MeetsModel, Memory, Seen
from pcl.memory.before_update import BeforeUpdate
from pcl.memory.edit import Edit
from pcl.memory.retrieval import Retrieval
from pcl.models.continual import ContinualModel
from pcl.models.modes import evaluation_mode
from pcl.randomness import generator
from pcl.streams.sampling import TaskSampling
from pcl.streams.stream import Batch, Stream
from pcl.training.arguments import check_arguments, check_model, check_optimizer
from pcl.training.bgd import BGD, sampled_descent
from pcl.training.callbacks import Callbacks
from pcl.training.checks import refuse_silence
from pcl.training.cuda_graph import GraphedStep, check_capturable
from pcl.training.direction import direction
from pcl.training.evaluation import accuracy
from pcl.training.guard import Guard, guard_for
from pcl.training.intake import fault_table
from pcl.training.look_back import look_back
from pcl.training.loss_terms import LossTerms
from pcl.training.losses import Precision, StepLosses, in_precision
from pcl.training.rehearsal import Edited, edit_after, recall, store
from pcl.training.results import results
from pcl.training.snapshot import Snapshot
from pcl.training.state import restore_trainer, trainer_state
from pcl.training.step_data import MemoryTasks, StepData
from pcl.training.step_result import Descent, StepResult
from pcl.training.turnover import next_batches
from pcl.training.update import plain_rate, update
from pcl.weighting.base import GradientWeighting, Weighting, sees_groups, steers
from pcl.weighting.fixed import Mean

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Trainer:
    """Trains one model on many task streams that start, overlap, pause and end at any time.

    Args:
        model: backbone and heads.
        optimizer: makes the optimizer from parameters, e.g. ``lambda p: torch.optim.Adam(p, lr=3e-3)``. It is
            called once with the backbone's; heads join it as new parameter groups, with the settings they were made
            with, when their tasks appear. Frozen parameters rest, and may be frozen and released at any time. With
            :class:`pcl.BGD` a step takes gradients, and asks the weighting, once for every draw of the parameters.
            Where plain :class:`torch.optim.SGD` moves a perceptron on the CPU, no gradient is kept: ``grad`` is None.
        weighting: how the task gradients combine; the mean if None. One that looks at losses alone makes a step cost
            one backward pass; one that works on the gradients themselves needs another strategy than ``"lowmem"``.
        memory: what is kept of samples, such as :class:`pcl.ClassMemory`, of finished tasks, or
            :class:`pcl.ReservoirMemory`, of running ones too; no rehearsal if None.
        retrieval: which of them come back, such as :class:`pcl.MIR`; at random if None.
        edit: how the memory samples of a step change after it, or before it in :class:`pcl.BeforeUpdate`.
        inference: what tells the classes at evaluations, such as :class:`pcl.NearestMean`; the model's heads if None.
        loss_terms: added to the losses of the tasks, or to the direction: :class:`pcl.EWC`, :class:`pcl.LwF` and the
            like, any number of them; see :mod:`pcl.losses.base`.
        memory_batch: samples drawn from the memory in each step.
        sampling: draws which of the active tasks take part in a step, see :class:`pcl.TaskSampling`; all if None.
        memory_tasks: ``"one"``: they are one task, MEMORY, with one loss and one gradient; ``"each"``: one task,
            ``"memory:<task>"``, for every one of which something is stored, as GEM has it; see
            :meth:`pcl.ClassMemory.sample_each`.
        gradients_over: ``"backbone"``: the Gramian and the weights concern the shared backbone, and heads follow
            the sum of their own gradients (Eq. 2-3 of the paper); ``"all"``: heads are weighted like the rest.
        gramian: ``"always"`` computes the Gramian, for the record of norms and cosines, also where the weighting does
            not need it; this takes one backward pass per task.
        strategy: how task gradients are found, see :func:`pcl.task_gradients`.
        precision: ``"full"``, or ``"bf16"`` for forward and backward passes under autocast to bfloat16. Parameters,
            Gramian, weights, update, edit and evaluation stay in full precision.
        accumulate: a step takes so many batches of every stream (fewer where an epoch has fewer left) and
            ``accumulate * memory_batch`` memory samples, one after the other, in the memory that one takes. A task's
            loss is its mean over all their samples, its gradient the gradient of that: without batch statistics the
            same as one batch of that size.
        clip: a norm. The gradient that the optimizer sees, the direction and that of the heads together, is shortened
            to it where it is longer.
        cuda_graph: capture steps on a GPU and replay them; see :class:`pcl.training.cuda_graph.GraphedStep`. The edit
            and evaluations stay outside of the graph.
        seed: of what is stored and retrieved; the same seed gives the same bits.
        callbacks: objects with any of the methods listed in :mod:`pcl.training.callbacks`.
        evaluate_every: measure accuracy every so many steps too, not only when a task ends.
        measure_descent: every so many steps compute the losses once more after the update, on the same batches, and
            record by how much each fell; one more forward pass, unless the weighting has it made anyway.

    Dropout and other layers that draw from torch's global generator follow ``torch.manual_seed``; checkpoints hold its
    state.

    Raises:
        TypeError: for a model, weighting, loss term or sampling of another type.
        ValueError: for an edit or inference without memory, a backbone with nothing to train, an unknown name, a count
            or norm out of range, or a ``cuda_graph`` of what cannot be captured.
    """

    def __init__(
        self,
        model: ContinualModel,
        *,
        optimizer: MakeOptimizer,
        weighting: Weighting | GradientWeighting | None = None,
        memory: Memory | None = None,
        retrieval: Retrieval | None = None,
        edit: Edit | BeforeUpdate | None = None,
        inference: Inference | None = None,
        loss_terms: Sequence[LossTerm] = (),
        memory_batch: int = 128,
        sampling: TaskSampling | None = None,
        memory_tasks: MemoryTasks = "one",
        gradients_over: Literal["backbone", "all"] = "backbone",
        gramian: Literal["needed", "always"] = "needed",
        strategy: Strategy = "auto",
        precision: Precision = "full",
        accumulate: int = 1,
        clip: float | None = None,
        cuda_graph: bool = False,
        seed: int = 0,
        callbacks: Sequence[object] = (),
        evaluate_every: int | None = None,
        measure_descent: int | None = None,
    ) -> None:
        check_model(model)
        self.model = model
        self.weighting: Weighting | GradientWeighting = Mean() if weighting is None else weighting
        self.memory = memory
        self.retrieval = retrieval
        self.edit = edit
        self.inference = inference
        self.loss_terms = LossTerms(model, loss_terms)
        self.memory_batch = memory_batch
        self.sampling = sampling
        self.memory_tasks: MemoryTasks = memory_tasks
        self.gradients_over = gradients_over
        self.gramian = gramian
        self.strategy: Strategy = strategy
        self.precision: Precision = precision
        self.accumulate = accumulate
        self.clip = clip
        self.evaluate_every = evaluate_every
        self.measure_descent = measure_descent
        check_arguments(self)
        if isinstance(memory, MeetsModel):
            memory.meet(model)
        self.optimizer = optimizer(list(model.backbone.parameters()))
        check_optimizer(self)
        self.streams: dict[str, Stream] = {}
        self.step_count = 0
        self.total_steps: int | None = None  # for those who show progress
        self.history: list[dict[str, Any]] = []  # {"step": k, "accuracy": {task: a_k^task}}
        self.ended_at: dict[str, int] = {}  # e_t of every finished task
        self.at_end: dict[str, float] = {}  # a_{e_t}^t of every finished task with test data
        self._last_trained: dict[str, int] = {}
        self._shape: torch.Size | None = None  # of a sample
        self._retrieval = generator(seed, "memory", "retrieval")
        self._storage = generator(seed, "memory", "storage")
        self._workspace = Workspace()
        self._guard: Guard = guard_for(self.device)
        self._graph: GraphedStep | None = None
        if cuda_graph:
            check_capturable(self)
            self._graph = GraphedStep(self)
        self._callbacks = Callbacks(callbacks)

    def use(self, *callbacks: object) -> None:
        """Add callbacks behind those given when the trainer was made."""
        self._callbacks.add(callbacks)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return parts.like(self.model.backbone).device

    # ---- streams

    def add(self, stream: Stream) -> None:
        """Let a stream take part from its start on, or at once if that has passed.

        Raises:
            TypeError: for anything but a stream.
            ValueError: if a stream of this name was added before, its last step has passed, or it is of a size that
                task sampling needs and does not know.
        """
        if not isinstance(stream, Stream):
            raise TypeError(f"trainer: expected a Stream, got {type(stream).__name__}")
        if stream.last_step is not None and stream.last_step < self.step_count:
            raise ValueError(
                f"trainer: stream {stream.task!r} should end after step {stream.last_step}, but step "
                f"{self.step_count} is next; give it a later end"
            )
        if stream.task in self.streams:
            raise ValueError(f"trainer: a stream named {stream.task!r} was added before; task names are unique")
        if self.sampling is not None:
            self.sampling.size(stream)  # refused now, not in the middle of the run
        self.streams[stream.task] = stream

    @property
    def active(self) -> tuple[str, ...]:
        """Tasks whose streams have started, have not ended and are not paused."""
        return tuple(
            task
            for task, stream in self.streams.items()
            if stream.start <= self.step_count and not stream.ended and not stream.paused
        )

    # ---- the loop

    def fit(self, steps: int | None = None) -> None:
        """Train until every stream has ended, or for ``steps`` steps.

        That a stream has run dry shows when its next batch is wanted: its task ends, and is evaluated, at the
        beginning of the step after its last one.

        Raises:
            RuntimeError: if streams are left but none is active: all paused, or a gap before the next start.
        """
        until = None if steps is None else self.step_count + steps
        self._callbacks.call("on_fit_start", self)
        try:
            while until is None or self.step_count < until:
                if self.step() is None and not self.active:  # a callback may have added a stream
                    refuse_silence(self.streams.values(), self.step_count)
                    break
            self._guard.look(wait=True)
        finally:
            self._callbacks.call("on_fit_end", self)

    def step(self) -> StepResult | None:
        """One step on a batch of every active stream, or of those drawn, and of the memory; None if none is active.

        A batch that is refused raises before anything changes. It then stays next in its stream;
        ``stream.advance()`` skips it. A loss, gradient or weight that is not finite raises before parameters, layer
        statistics, memory, generators and the weighting change; that tasks have ended or begun in this step stands.

        On a GPU nothing of this waits for the device. The error for values there comes a few steps later, and the step
        at fault and those after it have updated nothing; :class:`pcl.training.guard.Later` says what they did change.

        Raises:
            TypeError, ValueError: for a bad batch; see :func:`pcl.training.checks.check_batch`.
            FloatingPointError: for a loss, gradient or weight that is not finite.
        """
        self._guard.look()
        batches, faults = next_batches(self)
        if not batches:
            return None
        with Snapshot(self) as before:  # if anything in it raises, nothing has changed
            data, edited = self._recall(batches, faults)
            if isinstance(self.optimizer, BGD):
                descent = sampled_descent(self, self.optimizer, data)
            else:
                descent = self._descend(data) if self._graph is None else self._graph(data)
        self._guard.expect(self.step_count, data.tasks, descent.flags, before.restore)
        fall = look_back(self, data, before, descent.losses)
        try:
            if edited is None:  # x <- x - alpha grad_x |g(x) - d|^2
                edited = edit_after(self, data.recalled, descent.direction)
            change = store(self, edited)  # before other samples can take the places of those edited
        finally:  # the update has been made, whatever becomes of the edit
            self._discard(batches, descent.logits)
            step, self.step_count = self.step_count, self.step_count + 1

        result = StepResult(
            step, data.tasks, descent.losses, descent.gram, descent.weights, data.samples, change, fall,
            weighted=not steers(self.weighting),
        )  # fmt: skip
        self._callbacks.step(self, result)
        if self.evaluate_every and self.step_count % self.evaluate_every == 0:
            self.evaluate()
        self._callbacks.call("after_step", self)
        return result

    def _descend(self, data: StepData) -> Descent:
        """From batches to updated parameters."""
        shared, others = self._parameters()
        apart = self.weighting.needs != "losses" or self.gramian == "always"
        groups = None
        if sees_groups(self.weighting) and self.gramian == "needed":
            groups = self.weighting.groups(data.tasks)
        with in_precision(self.precision, self.model):
            losses = StepLosses(self.model, data, self.loss_terms)
            found = losses.gradients(  # g_i of every task i
                shared, others, apart=apart, groups=groups, strategy=self.strategy, workspace=self._workspace
            )
            logits = losses.logits() if self.memory is not None and self.memory.keep_logits else None
        gram = found.gramian() if apart and isinstance(found, TaskGradients) else None  # <g_i, g_j>
        self._guard.check_gradients(found.tasks, found.losses, gram)
        parameters = [*shared, *others]
        rate = plain_rate(self.optimizer, parameters) if self._only_descends() else None
        d, weights = direction(self.weighting, found, gram, self._guard, rate)  # d = sum_i lambda_i g_i, and lambda
        if d is None:  # and theta <- theta - gamma d in one go
            return Descent(found.losses, gram, weights, [], None, logits)
        of_data = [*d, *found.own]
        gradient = self.loss_terms.penalised(parameters, of_data)
        if self.clip is not None:
            gradient = clipped(gradient, self.clip)
        flags = self._guard.check_update(found.tasks, data.faults, found.losses, gram, weights, gradient)
        with self.loss_terms.following(parameters, of_data, self._guard.bad):
            update(self.optimizer, parameters, gradient, self._guard.bad)  # theta <- theta - gamma d
        return Descent(found.losses, gram, weights, gradient[: len(shared)], flags, logits)

    def evaluate(self, *, anew: bool = False) -> dict[str, float]:
        """Accuracy on the test data of every task that has appeared; also kept in ``history``. What has been measured
        in this step already is measured again only ``anew``."""
        self._guard.look(wait=True)
        step = self.step_count - 1
        tests = {task: self.streams[task].test for task in self.model.tasks}
        tasks = [task for task, test in tests.items() if test is not None]
        if self.history and self.history[-1]["step"] == step and list(self.history[-1]["accuracy"]) == tasks:
            if not anew:
                return dict(self.history[-1]["accuracy"])
            self.history.pop()  # with the memory inference has changed
        predict = None
        if self.inference is not None and self.memory is not None:
            with evaluation_mode(self.model), torch.no_grad():
                predict = self.inference(self.model, self.memory)
        found = {
            task: accuracy(self.model, task, *test, predict=predict) for task, test in tests.items() if test is not None
        }
        if found:
            self.history.append({"step": step, "accuracy": found})
            self._callbacks.call("on_evaluation", self, {"kind": "eval", "step": step, "accuracy": found})
        return found

    def results(self) -> dict[str, Any]:
        """A and F of the finished tasks (Eq. 25), the steps made, and the accuracies behind them; AAA, BWT and FM, see
        :func:`pcl.metrics.over_time`, and ``"A micro"``, the accuracy on the test samples of all tasks together.

        With an edit also how far the memory has drifted from its originals; see :meth:`pcl.ClassMemory.mean_drift`.

        Raises:
            ValueError: if no task with test data has ended.
        """
        return results(self)

    # ---- the parts of a step, in their order

    def _recall(
        self, batches: dict[str, list[Batch]], faults: dict[str, Tensor | None]
    ) -> tuple[StepData, Edited | None]:
        """The batches, and stored samples beside them; what an edit that acts before the update has made."""
        found = recall(self, batches)
        data = StepData(batches, found.recalled, self.memory_batch, drawn=found.drawn, seen=found.seen)
        table = fault_table(faults, data.tasks)
        return data if table is None else replace(data, faults=table), found.edited

    def _only_descends(self) -> bool:
        """Whether d serves for the update alone, which goes along it as it is."""
        unused = self.edit is None or isinstance(self.edit, BeforeUpdate)
        return unused and self.clip is None and self._guard.bad is None and self.loss_terms.of_losses_alone

    def _parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """(those on which tasks may conflict, the others); frozen ones are in neither."""
        backbone = self.model.shared_parameters()
        heads = parts.trainable(self.model.heads)
        return (backbone, heads) if self.gradients_over == "backbone" else (backbone + heads, [])

    def _discard(self, batches: dict[str, list[Batch]], logits: dict[str, list[Tensor]] | None) -> None:
        """The batches are used: the memory may keep a few samples, the streams go on."""
        for task, used in batches.items():
            stream = self.streams[task]
            for i, (x, y) in enumerate(used):
                if self.memory is not None and stream.epoch == 0:
                    seen = Seen(self.model, None if logits is None else logits[task][i])
                    self.memory.observe(task, x, y, stream.classes, self._storage, seen)
                if stream.epoch == 0:
                    self.loss_terms.observe(task, x, y)
                self._shape = x.shape[1:]
            self._last_trained[task] = self.step_count
            stream.advance(len(used))

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors and plain values. The tensors are those in use, not copies."""
        self._guard.look(wait=True)
        return trainer_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where the run stood that gave ``state``; add the same streams and build the same model before.

        Raises:
            ValueError: if ``state`` is not a trainer's, or model, optimizer, weighting, memory, edit, loss terms or
                streams are not of the same kind as in the run, before anything changes.
        """
        restore_trainer(self, state)
