"""Rehearsal memory that takes what it can while its classes stay balanced."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcl.memory.base import Seen, Table
from pcl.memory.placement import Placement

Owner = tuple[int, int]
"""Index of a task, and a class of it."""


class GreedyBalanced(Table):
    """At most k samples, of all classes seen as equally many as can be (Prabhu, Torr and Dokania, "GDumb", ECCV 2020,
    Algorithm 1, the greedy sampler).

    Samples are offered one by one. With s classes seen so far, that of the sample among them, a sample is taken if
    fewer than k / s of its class are stored; where the memory is full, a sample drawn from the largest class (of equal
    ones that seen first) makes room. Classes are counted once for every task that has them, as everywhere here; where
    no two tasks share a class that is the published algorithm.

    It reads the labels of every batch, for which a GPU is waited for.

    Args:
        capacity: k.
        keep_original: keep every sample as it came beside the one that edits may change, at twice the room.

    Raises:
        ValueError: if capacity < 1.
    """

    def __init__(self, capacity: int, *, keep_original: bool = True) -> None:
        if capacity < 1:
            raise ValueError(f"memory: expected capacity >= 1, got {capacity}")
        super().__init__(keep_original)
        self.capacity = capacity
        self._rows: dict[Owner, list[int]] = {}  # of every class seen, in that order
        self._room: dict[str, Tensor] = {}  # columns of `capacity` rows, of which x, y, ... are the filled ones

    def settings(self) -> dict[str, Any]:
        """See :class:`pcl.memory.base.Memory`."""
        return {"kind": "GreedyBalanced", "capacity": self.capacity, "keep_original": self.keep_original}

    def observe(
        self, task: str, x: Tensor, y: Tensor, classes: Sequence[int], draws: torch.Generator, seen: Seen | None = None
    ) -> None:
        """Offer a batch x ``(B, ...)``, y ``(B,)``, sample by sample."""
        if not self._room:
            self._make_room(x, y)
        if task not in self.names:
            self.names = (*self.names, task)
        owner = self.names.index(task)
        filled = len(self)
        sample_at: dict[int, int] = {}  # by row; of several for one row the last stays
        for sample, label in enumerate(y.tolist()):
            row = self._row_for((owner, label), filled, draws)
            if row is not None:
                sample_at[row] = sample
                filled = max(filled, row + 1)
        if sample_at:
            self._write(sample_at, filled, x, y, owner)

    def _row_for(self, owner: Owner, filled: int, draws: torch.Generator) -> int | None:
        """Where a sample of this class goes, if it is taken."""
        rows = self._rows.setdefault(owner, [])
        if len(rows) * len(self._rows) >= self.capacity:
            return None
        row = filled
        if filled == self.capacity:
            largest = max(self._rows.values(), key=len)
            row = largest.pop(int(torch.randint(len(largest), (), generator=draws)))
        rows.append(row)
        return row

    def _write(self, sample_at: dict[int, int], filled: int, x: Tensor, y: Tensor, owner: int) -> None:
        placement = Placement(sample_at)
        placement.put(x, *(self._room[name] for name in ("x", "original") if name in self._room))
        placement.put(y, self._room["y"])
        placement.fill(self._room["task"], owner)
        self._show(filled)

    def commit(self, task: str) -> None:
        """Nothing: what is stored of a task has been there since it was seen."""

    def rows_by_task(self) -> list[tuple[int, Tensor]]:
        """See :class:`pcl.memory.base.Table`."""
        by_task: dict[int, list[int]] = {}
        for (owner, _), rows in self._rows.items():
            by_task.setdefault(owner, []).extend(rows)
        return [(owner, torch.tensor(sorted(rows))) for owner, rows in sorted(by_task.items()) if rows]

    def state_dict(self) -> dict[str, Any]:
        """Everything."""
        full = len(self) == self.capacity
        return {
            "capacity": self.capacity,
            "names": list(self.names),
            "rows": [[*owner, list(rows)] for owner, rows in self._rows.items()],
            # A part of a column would be saved with the whole of it.
            **{name: getattr(self, name) if full else getattr(self, name).clone() for name in _COLUMNS},
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Take over a saved memory, on ``device``.

        Raises:
            ValueError: if it was made with another ``capacity``.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(f"memory: the checkpoint has capacity={state['capacity']}, this memory {self.capacity}")
        self.names = tuple(state["names"])
        self._rows = {(owner, label): list(rows) for owner, label, rows in state["rows"]}
        if len(state["y"]):
            self._make_room(state["x"].to(device), state["y"].to(device))
            self._show(len(state["y"]))
            for name in self._room:
                getattr(self, name).copy_(state[name])

    def _make_room(self, x: Tensor, y: Tensor) -> None:
        self._room = {
            "x": x.new_empty((self.capacity, *x.shape[1:])),
            "y": y.new_empty(self.capacity),
            "task": torch.empty(self.capacity, dtype=torch.int64, device=x.device),
        }
        if self.keep_original:
            self._room["original"] = torch.empty_like(self._room["x"])

    def _show(self, filled: int) -> None:
        """Let x, y, ... be the rows that are filled."""
        for name, column in self._room.items():
            setattr(self, name, column[:filled])


_COLUMNS = ("x", "original", "y", "task")
