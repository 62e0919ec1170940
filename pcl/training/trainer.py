"""The training loop: Algorithm 1 of Lyu et al., arXiv 2401.01054, for any weighting, memory and edit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcl.gradients.result import TaskGradients
from pcl.gradients.task_gradients import task_gradients
from pcl.gradients.workspace import Workspace
from pcl.memory.class_memory import ClassMemory, MemoryBatch
from pcl.memory.edit import Edit
from pcl.metrics import average_accuracy, forgetting
from pcl.models.continual import ContinualModel
from pcl.randomness import generator
from pcl.streams.stream import MEMORY, Batch, Stream
from pcl.training.callbacks import Callbacks
from pcl.training.checks import check_batch, check_finite, check_weights
from pcl.training.evaluation import accuracy
from pcl.training.state import restore_trainer, trainer_state
from pcl.weighting.base import Weighting
from pcl.weighting.fixed import Mean

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class StepResult:
    """One step of training, as tensors.

    Attributes:
        step: number of the step, from 0.
        tasks: the k tasks that took part, MEMORY last if it did.
        losses: ``(k,)``.
        gram: ``(k, k)`` float64, Gramian of the task gradients.
        weights: ``(k,)`` float64.
        samples: number of samples used.
        edited: mean absolute change of the memory samples by the edit, in units of x; None without one.
    """

    step: int
    tasks: tuple[str, ...]
    losses: Tensor
    gram: Tensor
    weights: Tensor
    samples: int
    edited: Tensor | None = None


class Trainer:
    """Trains one model on many task streams that start, overlap, pause and end at any time.

    Args:
        model: backbone and heads.
        optimizer: makes the optimizer from parameters, e.g. ``lambda p: torch.optim.Adam(p, lr=3e-3)``. It is
            called once with the backbone's trainable ones; heads join it as new parameter groups, with the settings
            they were made with, when their tasks appear.
        weighting: how the task gradients combine; the mean if None.
        memory: what is kept of finished tasks; no rehearsal if None.
        edit: how the memory samples of a step change after it; needs a memory.
        memory_batch: samples drawn from the memory in each step.
        gradients_over: ``"backbone"``: the Gramian and the weights concern the shared backbone, and heads follow
            the sum of their own gradients (Eq. 2-3 of the paper); ``"all"``: heads are weighted like the rest.
        seed: of what is stored and retrieved; the same seed gives the same bits.
        callbacks: objects with any of the methods listed in :mod:`pcl.training.callbacks`.
        evaluate_every: measure accuracy every so many steps too, not only when a task ends.

    Dropout and other layers that draw from torch's global generator follow ``torch.manual_seed``; checkpoints hold its
    state.

    Raises:
        TypeError: for a model of another type.
        ValueError: for an edit without memory, a backbone with nothing to train, an unknown ``gradients_over``, or a
            count below 1.
    """

    def __init__(
        self,
        model: ContinualModel,
        *,
        optimizer: MakeOptimizer,
        weighting: Weighting | None = None,
        memory: ClassMemory | None = None,
        edit: Edit | None = None,
        memory_batch: int = 128,
        gradients_over: Literal["backbone", "all"] = "backbone",
        seed: int = 0,
        callbacks: Sequence[object] = (),
        evaluate_every: int | None = None,
    ) -> None:
        if not isinstance(model, ContinualModel):
            raise TypeError(
                f"trainer: expected a ContinualModel, got {type(model).__name__}; wrap your network: "
                "ContinualModel(backbone, features=width of its output)"
            )
        if not model.shared_parameters():
            raise ValueError("trainer: the backbone has no trainable parameter, so that no task gradients exist")
        if edit is not None and memory is None:
            raise ValueError("trainer: an edit changes stored samples; pass a memory too, memory=ClassMemory(n)")
        if gradients_over not in ("backbone", "all"):
            raise ValueError(f"trainer: expected gradients_over 'backbone' or 'all', got {gradients_over!r}")
        if memory_batch < 1 or (evaluate_every is not None and evaluate_every < 1):
            raise ValueError(
                f"trainer: memory_batch and evaluate_every must be at least 1, got {memory_batch}, {evaluate_every}"
            )
        self.model = model
        self.optimizer = optimizer(model.shared_parameters())
        self.weighting: Weighting = Mean() if weighting is None else weighting
        self.memory = memory
        self.edit = edit
        self.memory_batch = memory_batch
        self.gradients_over = gradients_over
        self.evaluate_every = evaluate_every
        self.streams: dict[str, Stream] = {}
        self.step_count = 0
        self.total_steps: int | None = None  # for those who show progress
        self.history: list[dict[str, Any]] = []  # {"step": k, "accuracy": {task: a_k^task}}
        self.ended_at: dict[str, int] = {}  # e_t of every finished task
        self.at_end: dict[str, float] = {}  # a_{e_t}^t of every finished task with test data
        self._last_trained: dict[str, int] = {}
        self._like: Tensor | None = None  # an empty x with the shape and dtype that all samples have
        self._retrieval = generator(seed, "memory", "retrieval")
        self._storage = generator(seed, "memory", "storage")
        self._workspace = Workspace()
        self._callbacks = Callbacks(callbacks)

    def use(self, *callbacks: object) -> None:
        """Add callbacks behind those given when the trainer was made."""
        self._callbacks.add(callbacks)

    # ---- streams

    def add(self, stream: Stream) -> None:
        """Let a stream take part from its start on, or at once if that has passed.

        Raises:
            TypeError: for anything but a stream.
            ValueError: if a stream of this name was added before, or its last step has passed.
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
                    self._refuse_silence()
                    break
        finally:
            self._callbacks.call("on_fit_end", self)

    def step(self) -> StepResult | None:
        """One step on a batch of every active stream and of the memory; None if no stream is active.

        A batch that is refused raises before anything changes. It then stays next in its stream;
        ``stream.advance()`` skips it. A loss, gradient or weight that is not finite raises before parameters, layer
        statistics, memory and generators change; that tasks have ended or begun in this step stands.

        Raises:
            TypeError, ValueError: for a bad batch; see :func:`pcl.training.checks.check_batch`.
            FloatingPointError: for a loss, gradient or weight that is not finite.
        """
        batches = self._next_batches()
        if not batches:
            return None
        with self._all_or_nothing():
            recalled = self._recall()
            found = self._task_gradients(batches, recalled)  # g_i of every task i
            gram = found.gramian()  # <g_i, g_j>
            check_finite(found.tasks, found.losses, gram)
            weights = self.weighting(gram, found.losses, found.tasks)  # lambda_i
            check_weights(weights, found.tasks)
        direction = found.combine(weights)  # d = sum_i lambda_i g_i
        self._update(direction, found.own)  # theta <- theta - gamma d
        self._discard(batches)
        step, self.step_count = self.step_count, self.step_count + 1
        edited = self._edit_memory(recalled, direction)  # x <- x - alpha grad_x |g(x) - d|^2

        samples = sum(len(y) for _, y in batches.values()) + (0 if recalled is None else len(recalled.y))
        result = StepResult(step, found.tasks, found.losses, gram, weights, samples, edited)
        self._callbacks.step(self, result)
        if self.evaluate_every and self.step_count % self.evaluate_every == 0:
            self.evaluate()
        self._callbacks.call("after_step", self)
        return result

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the test data of every task that has appeared; also kept in ``history``."""
        step = self.step_count - 1
        tests = {task: self.streams[task].test for task in self.model.tasks}
        tasks = [task for task, test in tests.items() if test is not None]
        if self.history and self.history[-1]["step"] == step and list(self.history[-1]["accuracy"]) == tasks:
            return dict(self.history[-1]["accuracy"])
        found = {task: accuracy(self.model, task, *test) for task, test in tests.items() if test is not None}
        if found:
            self.history.append({"step": step, "accuracy": found})
            self._callbacks.call("on_evaluation", self, {"kind": "eval", "step": step, "accuracy": found})
        return found

    def results(self) -> dict[str, Any]:
        """A and F of the finished tasks (Eq. 25), the steps made, and the accuracies behind them.

        With an edit also how far the memory has drifted from its originals; see :meth:`pcl.ClassMemory.mean_drift`.

        Raises:
            ValueError: if no task with test data has ended.
        """
        final = {task: a for task, a in self.evaluate().items() if task in self.at_end}
        results = {
            "A": average_accuracy(final),
            "F": forgetting(final, self.at_end),
            "steps": self.step_count,
            "final": final,
            "at_end": dict(self.at_end),
        }
        if self.edit is not None and self.memory is not None and self.memory.keep_original:
            results["drift"] = self.memory.mean_drift()
        return results

    # ---- the parts of a step, in their order

    def _next_batches(self) -> dict[str, Batch]:
        """A batch of every active stream. Streams that are over or dry end here, those that come first begin."""
        like, (dtype, device) = self._like, self._parameter_facts()
        batches: dict[str, Batch] = {}
        over: list[Stream] = []
        for task, stream in self.streams.items():
            if stream.last_step is not None and self.step_count > stream.last_step and not stream.ended:
                over.append(stream)
            elif task in self.active:
                batch = stream.peek()
                if batch is not None:
                    x, y = check_batch(stream, batch, like, dtype)
                    batches[task], like = (x.to(device), y.to(device)), x[:0]
                elif task in self.model.tasks:
                    over.append(stream)
                else:
                    raise ValueError(f"stream {task!r}: its source is empty; at least one batch is needed")
        new = [task for task in batches if task not in self.model.tasks]
        for task in new:
            self.model.check_input(batches[task][0][:1], task)

        for stream in over:
            stream.end()
        self._finish_ended()
        for task in new:
            parameters = self.model.add_task(task, self.streams[task].classes)
            if parameters:
                self.optimizer.add_param_group({"params": parameters})
            self._callbacks.call("on_task_start", self, task)
        return batches

    def _parameter_facts(self) -> tuple[torch.dtype, torch.device]:
        parameter = self.model.shared_parameters()[0]
        return parameter.dtype, parameter.device

    def _finish_ended(self) -> None:
        ended = [
            task
            for task, stream in self.streams.items()
            if stream.ended and task in self.model.tasks and task not in self.ended_at
        ]
        for task in ended:
            self.ended_at[task] = self._last_trained[task]
            self.weighting.forget(task)
            if self.memory is not None:
                self.memory.commit(task)
        if ended:
            found = self.evaluate()
            self.at_end.update({task: found[task] for task in ended if task in found})
        for task in ended:
            self._callbacks.call("on_task_end", self, task)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """If the block raises, what a forward pass and a draw change is put back: buffers and generators."""
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        retrieval, global_states = self._retrieval.get_state(), self._global_generators()
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            self._retrieval.set_state(retrieval)
            self._set_global_generators(global_states)
            raise

    def _global_generators(self) -> list[Tensor]:
        """States of torch's global generators that layers such as dropout draw from: CPU, and the model's GPU."""
        device = self._parameter_facts()[1]
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]

    def _set_global_generators(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        device = self._parameter_facts()[1]
        if device.type == "cuda" and len(states) > 1:
            torch.cuda.set_rng_state(states[1], device)

    def _recall(self) -> MemoryBatch | None:
        if self.memory is None or len(self.memory) == 0:
            return None
        return self.memory.sample(self.memory_batch, self._retrieval)

    def _task_gradients(self, batches: dict[str, Batch], recalled: MemoryBatch | None) -> TaskGradients:
        model = self.model
        inputs = {task: x for task, (x, _) in batches.items()}
        losses: dict[str, Callable[[Tensor], Tensor]] = {
            task: lambda f, task=task, y=y: model.feature_losses(f, y, task).mean()  # type: ignore[misc]
            for task, (_, y) in batches.items()
        }
        if recalled is not None:
            inputs[MEMORY] = recalled.x
            losses[MEMORY] = lambda f: model.mixed_feature_losses(f, recalled.y, recalled.task, recalled.names).mean()
        return task_gradients(
            losses, *self._parameters(), model=model.backbone, inputs=inputs, root=model, workspace=self._workspace
        )

    def _parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """(those on which tasks may conflict, the others)."""
        backbone, heads = self.model.shared_parameters(), self.model.head_parameters()
        return (backbone, heads) if self.gradients_over == "backbone" else (backbone + heads, [])

    def _update(self, direction: Sequence[Tensor | None], own: Sequence[Tensor | None]) -> None:
        shared, others = self._parameters()
        for parameter, gradient in zip([*shared, *others], [*direction, *own], strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def _edit_memory(self, recalled: MemoryBatch | None, direction: Sequence[Tensor | None]) -> Tensor | None:
        if recalled is None or self.edit is None or self.memory is None:
            return None

        def losses(x: Tensor, rows: slice | Tensor) -> Tensor:
            return self.model.mixed_losses(x, recalled.y[rows], recalled.task[rows], recalled.names)

        edited = self.edit(self.model, losses, recalled.x, self._parameters()[0], direction)
        self.memory.replace(recalled.index, edited)
        return (edited - recalled.x).abs().mean()

    def _discard(self, batches: dict[str, Batch]) -> None:
        """The batches are used: their reservoirs may keep a few samples, the streams go on."""
        for task, (x, y) in batches.items():
            stream = self.streams[task]
            if self.memory is not None and stream.epoch == 0:
                self.memory.observe(task, x, y, stream.classes, self._storage)
            self._last_trained[task] = self.step_count
            self._like = x[:0].cpu()
            stream.advance()

    def _refuse_silence(self) -> None:
        left = [stream for stream in self.streams.values() if not stream.ended]
        paused = [stream.task for stream in left if stream.paused]
        if len(paused) == len(left) and paused:
            raise RuntimeError(f"fit: every stream that is left is paused ({', '.join(paused)}); resume one")
        if left:
            start = min(stream.start for stream in left if not stream.paused)
            raise RuntimeError(
                f"fit: a gap in the timeline: no stream is active at step {self.step_count}, the next starts at "
                f"{start}; let it start earlier"
            )

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as tensors and plain values. The tensors are those in use, not copies."""
        return trainer_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where the run stood that gave ``state``; add the same streams and build the same model before.

        Raises:
            ValueError: if ``state`` is not a trainer's, or model, optimizer, weighting, memory, edit or streams are
                not of the same kind as in the run, before anything changes.
        """
        restore_trainer(self, state)
