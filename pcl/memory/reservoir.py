"""Rehearsal memory of a fixed size: a uniform sample of all that went by, of running tasks too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pcl.memory.algorithm_r import places
from pcl.memory.base import Seen, Table
from pcl.memory.on_disk import on_disk
from pcl.memory.placement import Placement


class ReservoirMemory(Table):
    """A uniform sample of ``capacity`` of all samples seen, of whichever tasks (Vitter 1985, Algorithm R).

    Of i samples seen each is stored with probability capacity / i, at any time and without knowledge of tasks and their
    ends: what a step has trained on can come back in the next, as in experience replay for streams without tasks.
    Labels, tasks and places of a batch are as if its samples had come one by one; see
    :func:`pcl.memory.algorithm_r.places`.

    Storing a batch costs O(batch), drawing costs O(count), however large the memory is; its room is set aside with the
    first batch, on the batch's device.

    Args:
        capacity: how many samples at most.
        keep_original: keep every sample as it came beside the one that edits may change, at twice the room.
        logits: keep what the model said of a sample in the step that trained on it, before its update, as
            :class:`pcl.DER` wants it. Samples of tasks that have fewer classes, or that came when there were fewer,
            have NaN in the other columns.
        storage: where the samples x are kept: a folder, in which they lie in a file that is mapped into memory, so that
            there may be more of them than memory has room for; or a device. None is the device of the batches. Labels
            and the like are always there, and so are the samples that are drawn. Storing samples of a GPU elsewhere
            waits for it. Checkpoints hold the samples, wherever they are kept.

    Raises:
        ValueError: if capacity < 1.
    """

    numbers: tuple[str, ...] = ()  # further columns, of a float64 each, that a memory which keeps by another rule has

    def __init__(
        self,
        capacity: int,
        *,
        keep_original: bool = True,
        logits: bool = False,
        storage: Path | torch.device | None = None,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"memory: expected capacity >= 1, got {capacity}")
        super().__init__(keep_original, logits)
        self.capacity = capacity
        self.storage = storage
        self.seen = 0
        for name in self.numbers:
            setattr(self, name, torch.empty(0, dtype=torch.float64))
        self._room: dict[str, Tensor] = {}  # columns of `capacity` rows, of which x, y, ... are the filled ones
        self._owner = torch.empty(0, dtype=torch.int64)  # the column `task` on the CPU

    def settings(self) -> dict[str, Any]:
        """See :class:`pcl.memory.base.Memory`."""
        return {
            "kind": type(self).__name__,
            "capacity": self.capacity,
            "keep_original": self.keep_original,
            "logits": self.keep_logits,
        }

    def prepare(self, task: str, x: Tensor, y: Tensor) -> None:
        """Set the room aside if it is to be in a file, before a step is made in vain; see
        :class:`pcl.memory.base.Prepares`.

        Raises:
            OSError: if the folder cannot be written, or has not so much room.
        """
        if isinstance(self.storage, Path) and not self._room:
            self._make_room(x, y)

    def observe(
        self, task: str, x: Tensor, y: Tensor, classes: Sequence[int], draws: torch.Generator, seen: Seen | None = None
    ) -> None:
        """Let a batch go by: x ``(B, ...)``, y ``(B,)``; some of it stays, in the place of what was there.

        Raises:
            ValueError: if logits are to be kept and ``seen`` has none.
        """
        logits = self._begin(task, x, y, seen)
        if logits is not None:
            self._widen(logits.shape[1])  # now, and not with the first of these that is kept: a CUDA graph reads them
        count = y.shape[0]
        sample_at = places(self.seen, count, self.capacity, draws)
        self.seen += count
        if sample_at:
            self._write(Placement(sample_at), x, y, self.names.index(task), logits)

    def commit(self, task: str) -> None:
        """Nothing: what is stored of a task has been there since it was seen."""

    def rows_by_task(self) -> list[tuple[int, Tensor]]:
        """See :class:`pcl.memory.base.Table`."""
        owner = self._tasks()
        counts = torch.bincount(owner, minlength=len(self.names)).tolist()
        rows = owner.argsort(stable=True).split(counts)
        return [(t, part) for t, part in enumerate(rows) if len(part)]

    def state_dict(self) -> dict[str, Any]:
        """Everything, also how many samples have been seen."""
        return {
            "capacity": self.capacity,
            "seen": self.seen,
            "names": list(self.names),
            # A part of a column would be saved with the whole of it.
            **{name: column if len(self) == self.capacity else column.clone() for name, column in self._columns()},
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Take over a saved memory, on ``device``.

        Raises:
            ValueError: if it was made with another ``capacity``.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"memory: the checkpoint has capacity={state['capacity']}, this memory {self.capacity}")
        self.seen, self.names = state["seen"], tuple(state["names"])
        if self.seen == 0:
            return
        self._make_room(state["x"][:1].to(device), state["y"][:1].to(device))
        if self.keep_logits:
            self._room["logits"] = state["logits"].new_empty((self.capacity, state["logits"].shape[1]), device=device)
        self._show()
        for name, column in self._columns():
            column.copy_(state[name])
        self._owner[: len(self)] = state["task"].cpu()

    def _begin(self, task: str, x: Tensor, y: Tensor, seen: Seen | None) -> Tensor | None:
        """Make what a batch of the task needs; its logits, where they are kept."""
        if self.keep_logits and (seen is None or seen.logits is None):
            raise ValueError(
                "memory: logits are to be kept, but none came with the batch; pass seen=Seen(model, logits)"
            )
        if not self._room:
            self._make_room(x, y)
        if task not in self.names:
            self.names = (*self.names, task)
        return seen.logits if self.keep_logits and seen is not None else None

    def _arriving(self, task: str, x: Tensor, y: Tensor, seen: Seen | None) -> dict[str, Tensor]:
        """A batch in the columns of the room, but for :attr:`numbers`."""
        logits = self._begin(task, x, y, seen)
        columns = {"x": x, "y": y, "task": torch.full_like(y, self.names.index(task), dtype=torch.int64)}
        if self.keep_original:
            columns["original"] = x
        if logits is not None:
            columns["logits"] = self._padded(logits)
        return columns

    def _fill(self, columns: dict[str, Tensor]) -> int:
        """Store the first samples of a batch, as many as there are empty rows; their number."""
        first, self.seen = len(self), self.seen + len(columns["y"])
        count = min(self.capacity - first, len(columns["y"]))
        for name, values in columns.items():
            self._room[name][first : first + count] = values[:count]
        if count:
            self._show()
        return count

    def _tasks(self) -> Tensor:
        """The column ``task`` ``(n,)`` on the CPU."""
        return self._owner[: len(self)]

    def _make_room(self, x: Tensor, y: Tensor) -> None:
        self._room = {
            "x": self._room_for(x),
            "y": y.new_empty(self.capacity),
            "task": torch.empty(self.capacity, dtype=torch.int64, device=x.device),
        }
        if self.keep_original:
            self._room["original"] = self._room_for(x)
        if self.keep_logits:
            self._room["logits"] = torch.empty((self.capacity, 0), dtype=x.dtype, device=x.device)
        for name in self.numbers:
            self._room[name] = torch.empty(self.capacity, dtype=torch.float64, device=x.device)
        on_cpu = x.is_cpu
        self._owner = self._room["task"] if on_cpu else torch.empty(self.capacity, dtype=torch.int64)

    def _room_for(self, x: Tensor) -> Tensor:
        shape = (self.capacity, *x.shape[1:])
        if isinstance(self.storage, Path):
            return on_disk(self.storage, shape, x.dtype)
        return x.new_empty(shape, device=self.storage)

    def _write(self, placement: Placement, x: Tensor, y: Tensor, owner: int, logits: Tensor | None) -> None:
        room = self._room
        placement.put(x, *(room[name] for name in ("x", "original") if name in room))
        placement.put(y, room["y"])
        if logits is not None:
            new = self._padded(logits)
            placement.put(new, room["logits"])
        placement.fill(room["task"], owner)
        if self._owner is not room["task"]:
            placement.fill(self._owner, owner)
        if len(self) < self.capacity:
            self._show()

    def _padded(self, logits: Tensor) -> Tensor:
        """With as many columns as the widest rows have; so do all that are stored from now on."""
        width = self._widen(logits.shape[1])
        return F.pad(logits, (0, width - logits.shape[1]), value=torch.nan).to(self._room["logits"].dtype)

    def _widen(self, width: int) -> int:
        """Let logits have at least so many columns; how many they have."""
        there = self._room["logits"].shape[1]
        if width > there:
            self._room["logits"] = F.pad(self._room["logits"], (0, width - there), value=torch.nan)
            self._show()
        return max(width, there)

    def _show(self) -> None:
        """Let x, y, ... be the rows that are filled."""
        filled = min(self.seen, self.capacity)
        for name, column in self._room.items():
            setattr(self, name, column[:filled])

    def _columns(self) -> list[tuple[str, Tensor]]:
        names = ("x", "original", "y", "task", *(["logits"] if self.keep_logits else []), *self.numbers)
        return [(name, getattr(self, name)) for name in names]
