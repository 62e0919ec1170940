"""What a step costs, counted in place of timed."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


class Work:
    """Callback: floating-point operations of a few steps, evenly spread over the run.

    Counted are the matrix products, convolutions and attention that PyTorch is asked for in a step, of whatever for:
    forward and backward passes of all tasks and of rehearsal, retrieval, look-aheads and edits. What else the compiled
    core does (Gramians, combinations, updates) is small beside them and is not counted, nor are evaluations. Steps in
    between are left alone, and counting changes no number. Some steps are dearer than others, such as the first with
    rehearsal, in which faster ways are checked against slower ones: take the median.

    Args:
        every: steps between two that are counted.

    Attributes:
        flops: of the steps that were counted, one entry each; one multiplication with its addition is two. None are
            counted where steps are replayed as a CUDA graph, of which nothing is seen.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.flops: list[int] = []
        self._counter: _Counter | None = None
        self._evaluated = False

    def on_fit_start(self, trainer: "Trainer") -> None:
        self._begin(trainer)

    def on_step(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if self._counter is not None and not self._evaluated:
            self.flops.append(self._counter.total)
        self._end()

    def on_evaluation(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._evaluated = True  # a task has ended, and with it the evaluation is among what was counted

    def after_step(self, trainer: "Trainer") -> None:
        self._begin(trainer)

    def on_fit_end(self, trainer: "Trainer") -> None:
        self._end()

    def _begin(self, trainer: "Trainer") -> None:
        self._evaluated = False
        if trainer.step_count % self.every == 0 and trainer._graph is None:
            self._counter = _Counter()
            self._counter.__enter__()

    def _end(self) -> None:
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None


class _Counter(TorchDispatchMode):
    """Adds up what the operators called within cost, after PyTorch's own table of formulas."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket) or _OWN.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def _of_mlp(x: Tensor, weights: Sequence[Tensor], *others: Any, **_: Any) -> int:
    return 2 * len(x) * sum(w.numel() for w in weights)


def _of_mlp_backward(x: Tensor, weights: Sequence[Tensor], *others: Any, **_: Any) -> int:
    wanted, of_x = others[3], others[5]
    own = sum(w.numel() for w, needed in zip(weights, wanted, strict=False) if needed)
    return 2 * len(x) * (own + sum(w.numel() for w in weights[1:]) + (weights[0].numel() if of_x else 0))


_OWN: dict[Any, Callable[..., int]] = {
    torch.ops.pcl.mlp_forward: _of_mlp,
    torch.ops.pcl.mlp_backward: _of_mlp_backward,
}  # matrix products of the compiled core
