"""Writes what happens in a run to ``metrics.jsonl`` and saves checkpoints, in step with each other."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pcl.training.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer

METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.pcl"


class RunRecorder:
    """Callback: one JSON object per line for every step, start, end, evaluation and growth, and checkpoints.

    A checkpoint knows how many bytes of ``metrics.jsonl`` belong to it. :meth:`resume` cuts the file there, so
    that a run killed at any moment and resumed leaves the same lines as one that was never interrupted. Lines
    hold no times and no speeds, which would differ.

    Args:
        folder: the run's folder.
        every: steps between checkpoints.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder = folder
        self.every = every
        self._file: IO[bytes] | None = None

    def resume(self, trainer: "Trainer") -> bool:
        """Bring trainer and file to where the last checkpoint was; False if there is none."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            (self.folder / METRICS).unlink(missing_ok=True)
            return False
        state = load_checkpoint(path)
        if set(state) != {"trainer", "metrics_bytes"}:
            raise ValueError(f"{path}: a checkpoint, but not of a run; it holds {sorted(state)}")
        trainer.load_state_dict(state["trainer"])
        with (self.folder / METRICS).open("r+b") as file:
            file.truncate(state["metrics_bytes"])
        return True

    def steps(self) -> Iterator[dict[str, Any]]:
        """The records of the steps made so far."""
        path = self.folder / METRICS
        if path.exists():
            with path.open() as lines:
                yield from (record for record in map(json.loads, lines) if record["kind"] == "step")

    def on_fit_start(self, trainer: "Trainer") -> None:
        self._file = (self.folder / METRICS).open("ab")

    def on_fit_end(self, trainer: "Trainer") -> None:
        if self._file is not None:
            self._file.close()

    def on_step(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._write(record)

    def on_evaluation(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._write(record)

    def on_growth(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._write(record)

    def on_task_start(self, trainer: "Trainer", task: str) -> None:
        self._write({"kind": "start", "step": trainer.step_count, "task": task})

    def on_task_end(self, trainer: "Trainer", task: str) -> None:
        self._write({"kind": "end", "step": trainer.ended_at[task], "task": task})

    def after_step(self, trainer: "Trainer") -> None:
        if trainer.step_count % self.every == 0:
            self.save(trainer)

    def save(self, trainer: "Trainer") -> None:
        """Write a checkpoint now, during fit or after it."""
        if self._file is not None and not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
        size = (self.folder / METRICS).stat().st_size
        save_checkpoint(self.folder / CHECKPOINT, {"trainer": trainer.state_dict(), "metrics_bytes": size})

    def _write(self, record: dict[str, Any]) -> None:
        assert self._file is not None, "evaluations are recorded while fit runs"
        self._file.write(json.dumps(record).encode() + b"\n")
