"""Reads the folder of a run into arrays. Nothing here draws, and nothing else here reads files.

Absent values are NaN everywhere: a task that was not active in a step, a cosine that does not exist
because a gradient is zero. Tasks keep the order of the scenario; rehearsal streams, if any ran, come last.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcl.streams.stream import is_memory
from pcl.training.starvation import Starvation

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """One stream as planned: first and last step inclusive, `samples` in one pass over its data."""

    name: str
    class_ids: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Edits:
    """Stored samples before and after editing: `before`, `after` [n, ...image shape] in [0, 1].

    `gradient`, of the same shape, is that of Eq. 12 at the samples as they are, where the edit is guided by it.
    """

    before: FloatArray
    after: FloatArray
    classes: tuple[str, ...]
    tasks: tuple[str, ...]
    gradient: FloatArray | None = None


@dataclass(frozen=True)
class Features:
    """Features of a task's test samples `x` [n, D] with classes `y` [n], and of its stored samples, [m, D] and [m]."""

    x: FloatArray
    y: tuple[str, ...]
    stored: FloatArray
    stored_y: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """Everything a report shows. n recorded steps, T names (tasks, then the rehearsal streams that ran)."""

    folder: Path
    config: dict[str, Any]
    scenario: str
    setting: str
    fingerprint: str
    tasks: tuple[Task, ...]
    names: tuple[str, ...]  # [T]
    steps: IntArray  # [n]
    loss: dict[str, FloatArray]  # name -> [n]
    weight: dict[str, FloatArray]  # name -> [n], the λ of each task
    cosine: FloatArray  # [n, T, T]
    compared: bool  # whether gradients of single tasks were computed and compared at all
    conflict: FloatArray  # [n], share of the pairs of tasks with a negative cosine
    similarity: FloatArray  # [n], mean similarity of the gradients' lengths
    share: dict[str, FloatArray]  # name -> [n], predicted descent of each loss as a share of the possible one
    fall: dict[str, FloatArray]  # name -> [n], measured fall of each loss in the step
    starved: dict[str, int]  # tasks that the steps passed by, and the step in which that showed
    starts: dict[str, int]
    ends: dict[str, int]
    evaluations: tuple[tuple[int, dict[str, float]], ...]  # (step, accuracy as a fraction per task)
    growths: tuple[dict[str, Any], ...]  # records of the growths of the network, in their order
    edits: FloatArray  # mean absolute change of the edited samples, one entry per step that edited
    results: dict[str, Any] | None
    timing: dict[str, Any] | None
    images: Edits | None
    features: dict[str, tuple[Features, Features]]  # task -> as they were at its end, and at the end of the run

    @property
    def planned_steps(self) -> int | None:
        """Number of steps in the planned timeline, None if no task has a planned end."""
        ends = [task.end for task in self.tasks if task.end is not None]
        return max(ends) + 1 if ends else None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    `config.toml`, `scenario.json` and `metrics.jsonl` must be there; the rest is optional. A last line of
    `metrics.jsonl` without a line end was being written when the run was killed, and is left out.

    Raises:
        FileNotFoundError: the folder or a required file is missing.
        ValueError: a file is not what it should be; the message names the file and the line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"run_dir: expected the folder of a run, but {str(folder)!r} is not a folder")
    config = _read_config(folder / "config.toml")
    scenario = _read_json(folder / "scenario.json")
    tasks = tuple(_task(entry, folder / "scenario.json") for entry in scenario.get("tasks", []))
    rows = _read_rows(folder / "metrics.jsonl")
    try:
        return _assemble(folder, config, scenario, tasks, rows)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"{folder / 'metrics.jsonl'}: a row lacks a value or holds one of the wrong kind "
            f"({type(error).__name__}: {error}); was the file written by another version?"
        ) from error


def _assemble(
    folder: Path,
    config: dict[str, Any],
    scenario: dict[str, Any],
    tasks: tuple[Task, ...],
    rows: list[dict[str, Any]],
) -> Run:
    # Later rows win: a run resumed from a checkpoint may have repeated some steps.
    by_step = {int(row["step"]): row for row in rows if row["kind"] == "step"}
    records = [by_step[step] for step in sorted(by_step)]
    evaluations = {int(row["step"]): row["accuracy"] for row in rows if row["kind"] == "eval"}
    starts = {row["task"]: int(row["step"]) for row in rows if row["kind"] == "start"}
    ends = {row["task"]: int(row["step"]) for row in rows if row["kind"] == "end"}

    # Streams may be added while training runs, so the plan need not name them all.
    seen = {name: None for record in records for name in record["tasks"]} | dict.fromkeys(starts)
    planned = [task.name for task in tasks]
    added = [name for name in seen if name not in planned and not is_memory(name)]
    names = (*planned, *added, *filter(is_memory, seen))
    column = {name: i for i, name in enumerate(names)}

    cosine = np.full((len(records), len(names), len(names)), np.nan)
    for i, record in enumerate(records):
        active = [column[name] for name in record["tasks"]]
        matrix = np.array(record.get("cosine") or np.full((len(active),) * 2, np.nan), dtype=np.float64)
        cosine[i][np.ix_(active, active)] = matrix  # a null became NaN

    return Run(
        folder=folder,
        config=config,
        scenario=str(scenario.get("name", "unnamed")),
        setting=str(scenario.get("setting", "unknown")),
        fingerprint=str(scenario.get("fingerprint", "")),
        tasks=(*tasks, *(Task(name) for name in added)),
        names=names,
        steps=np.array(sorted(by_step), dtype=np.int64),
        loss=_series(records, "loss", names),
        weight=_series(records, "weight", names),
        cosine=cosine,
        compared=any("cosine" in record for record in records),
        conflict=_numbers(records, "conflict"),
        similarity=_numbers(records, "similarity"),
        share=_series(records, "share", names),
        fall=_series(records, "fall", names),
        starved=_starved(records),
        starts=starts,
        ends=ends,
        evaluations=tuple(
            (step, {name: float(value) for name, value in evaluations[step].items()}) for step in sorted(evaluations)
        ),
        growths=tuple({(row["step"], *row["tasks"]): row for row in rows if row["kind"] == "growth"}.values()),
        edits=np.array([record["edited"] for record in records if "edited" in record], dtype=np.float64),
        results=_read_json(folder / "results.json") if (folder / "results.json").exists() else None,
        timing=_read_json(folder / "timing.json") if (folder / "timing.json").exists() else None,
        images=_read_images(folder / "memory_edits.npz", tasks),
        features=_read_features(folder / "features", tasks),
    )


def _series(records: list[dict[str, Any]], key: str, names: tuple[str, ...]) -> dict[str, FloatArray]:
    out = {name: np.full(len(records), np.nan) for name in names}
    for i, record in enumerate(records):
        for name, value in record.get(key, {}).items():
            out[name][i] = np.nan if value is None else value
    return out


def _numbers(records: list[dict[str, Any]], key: str) -> FloatArray:
    return np.array([record.get(key) for record in records], dtype=np.float64)  # None becomes NaN


def _starved(records: list[dict[str, Any]]) -> dict[str, int]:
    watch = Starvation()
    for record in records:
        watch.see(record)
    return watch.found


def _task(entry: dict[str, Any], path: Path) -> Task:
    if "task" not in entry:
        raise ValueError(f"{path}: every entry of 'tasks' needs the key 'task', but one has {sorted(entry)}")
    classes = tuple(int(c) for c in entry.get("classes", []))
    return Task(
        name=str(entry["task"]),
        class_ids=classes,
        class_names=tuple(str(c) for c in entry.get("class_names", classes)),
        start=entry.get("start"),
        end=entry.get("end"),
        samples=entry.get("samples"),
    )


def _required(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.name} is missing in {str(path.parent)!r}; a run folder holds config.toml, scenario.json "
            "and metrics.jsonl"
        )
    return path


def _read_config(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise ImportError(
                "reading config.toml on Python 3.10 needs tomli; install it with "
                "pip install 'parallel-continual-learning[cli]'"
            ) from error
    try:
        return tomllib.loads(_required(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: expected TOML, but {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_required(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected JSON, but {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, but it holds a {type(value).__name__}")
    return value


def _read_rows(path: Path) -> list[dict[str, Any]]:
    text = _required(path).read_text(encoding="utf-8", errors="replace")
    complete, _, _unfinished = text.rpartition("\n")
    rows = []
    for number, line in enumerate(complete.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: expected a JSON object, but {error}") from error
        if not isinstance(row, dict) or "kind" not in row or "step" not in row:
            raise ValueError(f"{path}, line {number}: expected an object with 'kind' and 'step', got {line[:80]}")
        rows.append(row)
    return rows


def _read_images(path: Path, tasks: tuple[Task, ...]) -> Edits | None:
    """The stored samples, or None if there are none or they are not images of (n, [C,] H, W)."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as data:
        missing = {"before", "after", "y", "task"} - set(data.files)
        if missing:
            raise ValueError(f"{path}: expected arrays before, after, y and task, but {sorted(missing)} is absent")
        before, after = data["before"].astype(np.float64), data["after"].astype(np.float64)
        gradient = data["gradient"].astype(np.float64) if "gradient" in data.files else None
        labels, owners = data["y"].tolist(), [str(name) for name in data["task"].tolist()]
    if before.shape != after.shape or len(labels) != len(before) or len(owners) != len(before):
        raise ValueError(
            f"{path}: expected one row per sample and equal image shapes, got before {before.shape}, "
            f"after {after.shape}, y ({len(labels)},) and task ({len(owners)},)"
        )
    if before.ndim not in (3, 4) or len(before) == 0:
        return None
    return Edits(before, after, _named(labels, tasks), tuple(owners), gradient)


def _read_features(folder: Path, tasks: tuple[Task, ...]) -> dict[str, tuple[Features, Features]]:
    """By task what was kept of it both early and late, as it is once a run has finished."""
    found = {}
    for late in sorted(folder.glob("*-late.npz")):
        name, at_end = _read_cloud(late.with_name(late.name.replace("late", "early")), tasks)
        found[name] = at_end, _read_cloud(late, tasks)[1]
    return found


def _read_cloud(path: Path, tasks: tuple[Task, ...]) -> tuple[str, Features]:
    with np.load(path, allow_pickle=False) as data:
        missing = {"task", "x", "y", "stored", "stored_y"} - set(data.files)
        if missing:
            raise ValueError(
                f"{path}: expected arrays task, x, y, stored and stored_y, but {sorted(missing)} is absent"
            )
        x, stored = data["x"].astype(np.float64), data["stored"].astype(np.float64)
        y, stored_y = _named(data["y"].tolist(), tasks), _named(data["stored_y"].tolist(), tasks)
        return str(data["task"]), Features(x, y, stored, stored_y)


def _named(classes: list[int], tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """The names of classes, where the scenario has some."""
    named = {c: name for task in tasks for c, name in zip(task.class_ids, task.class_names, strict=False)}
    return tuple(str(named.get(c, c)) for c in classes)
