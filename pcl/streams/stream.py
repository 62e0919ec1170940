"""A task stream: batches of one task that start, pause, resume and end."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

Batch = tuple[Tensor, Tensor]

MEMORY = "MEMORY"
"""Name of the rehearsal stream; no task may be called so."""


class Stream:
    """Batches ``(x, y)`` of one task, from any iterable: a list, a generator, a ``DataLoader``.

    Every sample is used once per epoch. The stream ends by itself when its source runs dry, after step ``end``
    if one is given, or when :meth:`end` is called. Labels are class numbers that are global to the run: two
    tasks may share a class.

    A run that is resumed from a checkpoint needs the same batches again: the source is read anew and the
    batches already used are skipped. Sources with a ``set_epoch`` method (as PyTorch's samplers have) are told
    the epoch first. A ``DataLoader`` that shuffles should own a seeded ``generator``.

    Args:
        task: name of the task.
        batches: iterable of ``(x, y)``, x ``(B, ...)``, y ``(B,)`` of an integer dtype. B may vary.
        classes: the class numbers that y may hold.
        start: first step at which the stream is active.
        end: last step at which it may be active; None for "until it is dry".
        epochs: how often the source is read; more than once needs a source that can be read again.
        test: held-out ``(x, y)`` tensors for accuracy, or None.

    Raises:
        ValueError: for an empty or reserved name, no or duplicate classes, a negative start, an end before the
            start, epochs < 1, or a one-shot iterator with more than one epoch.
    """

    def __init__(
        self,
        task: str,
        batches: Iterable[Batch],
        classes: Sequence[int],
        *,
        start: int = 0,
        end: int | None = None,
        epochs: int = 1,
        test: Batch | None = None,
    ) -> None:
        if not task or task == MEMORY:
            raise ValueError(f"stream: {task!r} is not a task name; use a non-empty name other than {MEMORY!r}")
        if not classes or len(set(classes)) != len(classes) or min(classes) < 0:
            raise ValueError(f"stream {task!r}: classes must be distinct non-negative integers, got {list(classes)}")
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"stream {task!r}: expected 0 <= start <= end, got start={start}, end={end}")
        if epochs < 1:
            raise ValueError(f"stream {task!r}: expected epochs >= 1, got {epochs}")
        if epochs > 1 and iter(batches) is batches:
            raise ValueError(
                f"stream {task!r}: {epochs} epochs need a source that can be read again, but a one-shot iterator "
                "was given; pass a list, a DataLoader or an object whose __iter__ starts anew"
            )
        self.task = task
        self.classes = tuple(int(c) for c in classes)
        self.start = start
        self.last_step = end
        self.epochs = epochs
        self.test = test
        self.epoch = 0
        self.paused = False
        self.ended = False
        self._source = batches
        self._iterator: Iterator[Batch] | None = None
        self._next: Batch | None = None
        self._taken = 0  # batches used in the current epoch

    def __repr__(self) -> str:
        state = "ended" if self.ended else "paused" if self.paused else "open"
        return f"Stream({self.task!r}, classes={list(self.classes)}, start={self.start}, {state})"

    def pause(self) -> None:
        """Give no batches until :meth:`resume`; nothing is lost, the source waits."""
        self.paused = True

    def resume(self) -> None:
        """Go on after :meth:`pause` with the batch that was next."""
        self.paused = False

    def end(self) -> None:
        """End the task now, whether or not batches are left."""
        self.ended = True

    def peek(self) -> Batch | None:
        """The next batch, which stays next until :meth:`advance`; None when the source is dry."""
        while self._next is None and self.epoch < self.epochs:
            if self._iterator is None:
                self._iterator = self._open()
            self._next = next(self._iterator, None)
            if self._next is None:
                if self._taken == 0:
                    break  # an empty source is dry in every epoch
                self.epoch, self._taken, self._iterator = self.epoch + 1, 0, None
        return self._next

    def advance(self) -> None:
        """The batch last peeked at has been used; it is discarded."""
        self._next = None
        self._taken += 1

    def _open(self) -> Iterator[Batch]:
        if hasattr(self._source, "set_epoch"):
            self._source.set_epoch(self.epoch)
        return iter(self._source)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain values."""
        return {
            "classes": list(self.classes),
            "epoch": self.epoch,
            "taken": self._taken,
            "paused": self.paused,
            "ended": self.ended,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where ``state`` says, reading the source anew and skipping the batches already used.

        Raises:
            ValueError: if the stream has other classes or its source holds fewer batches than were used.
        """
        if list(self.classes) != state["classes"]:
            raise ValueError(
                f"stream {self.task!r}: the checkpoint was made with classes {state['classes']}, "
                f"this stream has {list(self.classes)}"
            )
        self.epoch, self._taken = state["epoch"], state["taken"]
        self.paused, self.ended = state["paused"], state["ended"]
        self._iterator, self._next = None, None
        if self.ended or self.epoch >= self.epochs:
            return
        self._iterator = self._open()
        for skipped in range(self._taken):
            if next(self._iterator, None) is None:
                raise ValueError(
                    f"stream {self.task!r}: the checkpoint had used {self._taken} batches, but the source holds "
                    f"only {skipped}; resume with the source that the run was started with"
                )
