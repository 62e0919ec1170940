"""A step captured in a CUDA graph, and replayed while tasks and shapes stay the same."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcl.models.growth.growing import GrowingModel
from pcl.parts import modules
from pcl.training.step_data import StepData
from pcl.training.step_result import Descent

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer

Replay = Callable[[], Descent]

WARM_UP = 3  # plain steps first: they compile kernels, make buffers and optimizer state, and are steps like any other


class GraphedStep:
    """Makes the trainer's steps: plain ones until :data:`WARM_UP` in a row were of one kind, then by replaying one.

    The graph reads its batches from buffers of its own, into which those of a step are copied first. It serves as long
    as the same tasks take part and the same parameters train with the same settings of the optimizer (give the
    learning rate as a tensor to change it without a new capture). A batch of another shape, as the last one of an
    epoch may be, gets a plain step in between.

    Args:
        trainer: whose steps are made.
        capture: from a function to one that replays it; another than that of CUDA is for tests.
    """

    def __init__(self, trainer: "Trainer", capture: Callable[[Replay], Replay] | None = None) -> None:
        self._trainer = trainer
        self._capture = capture_in_cuda_graph if capture is None else capture
        self._replay: Replay | None = None
        self._inputs: list[Tensor] = []
        self._composition: object = None
        self._shapes: object = None
        self._alike = 0  # plain steps of the present kind so far

    def __call__(self, data: StepData) -> Descent:
        composition, shapes = self._facts(data), [(t.shape, t.dtype) for t in data.tensors()]
        if composition != self._composition:
            self.drop()
            self._composition = composition
        if self._replay is not None and shapes == self._shapes:
            torch._foreach_copy_(self._inputs, data.tensors())
            return _own(self._replay())
        if self._replay is None:
            self._alike = self._alike + 1 if shapes == self._shapes else 1
            self._shapes = shapes
            if self._alike > WARM_UP:
                self._inputs = [t.clone() for t in data.tensors()]
                static = data.with_tensors(self._inputs)
                self._replay = self._capture(lambda: self._trainer._descend(static))
                return _own(self._replay())
        return self._trainer._descend(data)

    def drop(self) -> None:
        """Capture anew, after plain steps: what the graph reads or writes is no longer where it was."""
        self._replay, self._inputs, self._alike = None, [], 0

    def _facts(self, data: StepData) -> tuple[Any, ...]:
        """What is baked into a graph beside shapes; compared from step to step."""
        trainer = self._trainer
        shared, others = trainer._parameters()
        settings = [
            {name: value for name, value in group.items() if name != "params" and not isinstance(value, Tensor)}
            for group in trainer.optimizer.param_groups
        ]
        modes = [module.training for module in modules(trainer.model)]
        memory = () if data.recalled is None else (data.recalled.names, data.recalled.sizes)
        return data.tasks, memory, [id(p) for p in (*shared, *others)], settings, modes


def capture_in_cuda_graph(function: Replay) -> Replay:
    """Capture what ``function`` launches; the result launches it again, and gives the tensors that it writes.

    Other threads may go on, as those that pin a DataLoader's batches do.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        descent = function()

    def replay() -> Descent:
        graph.replay()
        return descent

    return replay


def check_capturable(trainer: "Trainer") -> None:
    """Refuse what cannot be captured.

    Raises:
        ValueError: for a model that is not on a GPU, or grows, and for a weighting, loss term or optimizer that decides
            on the host.
    """
    if isinstance(trainer.model, GrowingModel):
        raise ValueError("trainer: cuda_graph cannot capture a GrowingModel, whose shapes change; leave cuda_graph out")
    if trainer.device.type != "cuda":
        raise ValueError(
            f"trainer: cuda_graph needs a model on a CUDA device, this one is on {trainer.device}; move it there "
            "first, or leave cuda_graph out"
        )
    if not trainer.weighting.capturable:
        raise ValueError(
            f"trainer: cuda_graph cannot capture the weighting {type(trainer.weighting).__name__}, which draws or "
            "decides on the host; take another one, or leave cuda_graph out"
        )
    for term in trainer.loss_terms:
        if not term.capturable:
            raise ValueError(
                f"trainer: cuda_graph cannot capture the loss term {type(term).__name__}, which draws or decides on "
                "the host; take another one, or leave cuda_graph out"
            )
    kind = type(trainer.optimizer)
    if kind is not torch.optim.SGD and not all(group.get("capturable") for group in trainer.optimizer.param_groups):
        raise ValueError(
            f"trainer: cuda_graph needs SGD, or an optimizer made with capturable=True; make {kind.__name__} with it"
        )


def _own(descent: Descent) -> Descent:
    """With copies of what outlives the step; the next replay writes over the rest."""
    gram = None if descent.gram is None else descent.gram.clone()
    return replace(descent, losses=descent.losses.clone(), gram=gram, weights=descent.weights.clone())
