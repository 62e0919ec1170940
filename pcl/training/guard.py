"""Steps with values that are not finite change nothing: said at once on the CPU, and without a wait on a GPU."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pcl.finite import all_finite
from pcl.training.checks import check_finite, check_update


class Guard(Protocol):
    """What the loop asks in every step."""

    @property
    def bad(self) -> Tensor | None:
        """None, or 1 on the device from a step that is not finite on: the update, and the edit, then have no effect."""

    def check_gradients(self, tasks: Sequence[str], losses: Tensor, gram: Tensor | None) -> None:
        """Before the weights: losses ``(k,)`` and Gramian ``(k, k)``."""

    def check_update(
        self, tasks: Sequence[str], faults: Tensor | None, losses: Tensor, gram: Tensor | None, weights: Tensor,
        gradients: Sequence[Tensor | None],
    ) -> Tensor | None:  # fmt: skip
        """Before the update: everything. Flags for :meth:`expect`, if they are to be looked at later."""

    def expect(self, step: int, tasks: Sequence[str], flags: Tensor | None, undo: Callable[[], None]) -> None:
        """The step has been made; ``undo`` puts back what the device does not by itself."""

    def look(self, *, wait: bool = False) -> None:
        """Raise if a step is known not to have been finite; with ``wait`` all steps become known."""


class AtOnce:
    """For the CPU: looks at every value when it is there, and raises.

    Raises:
        FloatingPointError: naming the task, or the weights, at fault.
    """

    bad = None

    def check_gradients(self, tasks: Sequence[str], losses: Tensor, gram: Tensor | None) -> None:
        """See :func:`pcl.training.checks.check_finite`."""
        check_finite(tasks, losses, gram)

    def check_update(
        self, tasks: Sequence[str], faults: Tensor | None, losses: Tensor, gram: Tensor | None, weights: Tensor,
        gradients: Sequence[Tensor | None],
    ) -> None:  # fmt: skip
        """See :func:`pcl.training.checks.check_update`."""
        check_update(weights, tasks, gradients)

    def expect(self, step: int, tasks: Sequence[str], flags: Tensor | None, undo: Callable[[], None]) -> None:
        """Nothing is left to be known."""

    def look(self, *, wait: bool = False) -> None:
        """Everything is known."""


REASONS = (
    "a label is outside the declared classes",
    "x holds NaN or infinite values",
    "the loss is not finite",
    "the gradient is not finite",
    "the weight is not finite",
    "the combined gradient is not finite",
)


@dataclass
class _Expected:
    step: int
    tasks: tuple[str, ...]
    flags: Tensor  # (reasons, k) bool on the host, once the copy has arrived
    arrived: Callable[[], bool]
    wait: Callable[[], None]
    undo: Callable[[], None]


class Later:
    """For a GPU: what is wrong stays on the device as flags, which travel to the host while it goes on.

    From the first step that is not finite on, ``bad`` is 1: this step and all after it leave parameters and optimizer
    state as they were. When the flags arrive, a few steps later at most, or before accuracies are measured and
    checkpoints made, the rest (layer statistics, the generators of layers and retrieval, the state of weighting and
    edit) is put back to where it was before that step, and the error is raised. What remains changed: the streams have
    gone on, the memory has seen their batches, and the steps are counted.

    Args:
        most: steps that may be under way before the host waits for the oldest.
    """

    def __init__(self, device: torch.device, most: int = 16) -> None:
        self.bad = torch.zeros((), device=device)
        self._most = most
        self._expected: deque[_Expected] = deque()

    def check_gradients(self, tasks: Sequence[str], losses: Tensor, gram: Tensor | None) -> None:
        """Nothing: a weighting on a GPU turns NaN into NaN, which shows later."""

    def check_update(
        self, tasks: Sequence[str], faults: Tensor | None, losses: Tensor, gram: Tensor | None, weights: Tensor,
        gradients: Sequence[Tensor | None],
    ) -> Tensor:  # fmt: skip
        """Flags ``(reasons, k)`` bool on the device: what of each task is wrong; ``bad`` follows them."""
        none = torch.zeros_like(losses, dtype=torch.bool)
        found = [none, none] if faults is None else list(faults)
        found.append(~torch.isfinite(losses))
        found.append(none if gram is None else ~torch.isfinite(gram.diagonal()))
        found.append(~torch.isfinite(weights))
        found.append((~all_finite(gradients)).to(losses.device).expand(len(tasks)))
        flags = torch.stack(found)
        self.bad.copy_(torch.maximum(self.bad, flags.any().to(self.bad.dtype)))
        return flags

    def expect(self, step: int, tasks: Sequence[str], flags: Tensor | None, undo: Callable[[], None]) -> None:
        """Send the flags to the host."""
        assert flags is not None
        arrived, wait, on_host = send(flags)
        self._expected.append(_Expected(step, tuple(tasks), on_host, arrived, wait, undo))

    def look(self, *, wait: bool = False) -> None:
        """Read the flags that have arrived, or all.

        Raises:
            FloatingPointError: for the first step that was not finite, naming step, task and reason.
        """
        while self._expected:
            oldest = self._expected[0]
            if wait or len(self._expected) > self._most:
                oldest.wait()
            elif not oldest.arrived():
                return
            if oldest.flags.any():
                self._expected.clear()
                self.bad.zero_()
                oldest.undo()
                raise FloatingPointError(_message(oldest))
            self._expected.popleft()


def _message(bad: _Expected) -> str:
    reason, task = (int(i) for i in bad.flags.nonzero()[0])
    return (
        f"step {bad.step}, task {bad.tasks[task]!r}: {REASONS[reason]}; this step and those after it updated nothing, "
        "the batches they took are gone. Lower the learning rate, or check this task's data and the backbone for "
        "values out of range"
    )


def send(flags: Tensor) -> tuple[Callable[[], bool], Callable[[], None], Tensor]:
    """Copy to the host without waiting: (has it arrived?, wait for it, where it arrives)."""
    if flags.device.type != "cuda":
        return (lambda: True), (lambda: None), flags.clone()
    on_host = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
    on_host.copy_(flags, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return event.query, event.synchronize, on_host


def guard_for(device: torch.device) -> Guard:
    """The guard for a model on this device."""
    return AtOnce() if device.type == "cpu" else Later(device)
