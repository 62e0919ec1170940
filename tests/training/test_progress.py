"""The live view: what it shows, when it draws, and that it leaves the terminal as it was."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from pcl.training import progress
from pcl.training.progress import Progress, bar, clock

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


@dataclass
class Trainer:
    step_count: int = 0
    total_steps: int | None = 100


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, legacy_windows=False, _environ={}
    )


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def record(step: int, **weight: float) -> dict[str, Any]:
    loss = {task: 1.0 + i for i, task in enumerate(weight)}
    return {
        "kind": "step", "step": step, "tasks": list(weight), "loss": loss, "weight": weight,
        "samples": 64 * len(weight),
    }  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    fake = Clock()
    monkeypatch.setattr(progress, "perf_counter", fake)
    return fake


def screen(view: Progress, trainer: Trainer, width: int = 80, height: int = 24) -> list[str]:
    """What the view would draw now, as plain lines."""
    console = Console(file=io.StringIO(), width=width, height=height, _environ={})
    view._console, kept = console, view._console
    try:
        console.print(view._picture(trainer, progress.perf_counter()))
    finally:
        view._console = kept
    return [line.rstrip() for line in written(console).splitlines()]


def line_of(lines: list[str], task: str) -> str:
    (line,) = [line for line in lines if line.startswith(task)]
    return line


def test_table_follows_tasks_through_their_states(now: Clock) -> None:
    trainer, view = Trainer(), Progress(console=terminal())
    view.on_fit_start(trainer)
    view.on_task_start(trainer, "a")
    assert "waiting" in line_of(screen(view, trainer), "a")
    view.on_step(trainer, record(0, a=0.25, MEMORY=0.75))
    view.on_task_start(trainer, "b")
    view.on_step(trainer, record(1, a=0.5, b=0.125, MEMORY=0.375))
    view.on_evaluation(trainer, {"step": 1, "accuracy": {"a": 0.931}})
    lines = screen(view, trainer)
    assert line_of(lines, "a").split() == ["a", "training", "1.0000", "█" * 10, "0.500", "93.1", "%"]
    assert line_of(lines, "b").split() == ["b", "training", "2.0000", "██▌", "0.125"]
    assert lines[-1].startswith("MEMORY")
    view.on_step(trainer, record(2, b=1.0))
    assert line_of(screen(view, trainer), "a").split() == ["a", "paused", "1.0000", "93.1", "%"]
    view.on_task_end(trainer, "a")
    assert line_of(screen(view, trainer), "a").split()[:2] == ["a", "finished"]
    view.on_fit_end(trainer)


def test_a_task_keeps_the_loss_of_its_last_step(now: Clock) -> None:
    trainer, view = Trainer(), Progress(console=terminal())
    view.on_fit_start(trainer)
    view.on_step(trainer, record(0, a=1.0))
    view.on_step(trainer, record(1, b=0.5, a=0.5))  # not drawn: too soon
    view.on_task_end(trainer, "a")
    view.on_step(trainer, record(2, b=1.0))
    assert line_of(screen(view, trainer), "a").split() == ["a", "finished", "2.0000"]
    view.on_fit_end(trainer)


def test_speed_and_time_left(now: Clock) -> None:
    trainer, view = Trainer(total_steps=100), Progress(console=terminal())
    view.on_fit_start(trainer)
    for step in range(20):
        now.now += 0.5
        trainer.step_count = step + 1
        view.on_step(trainer, record(step, a=1.0))
    assert "step 20 of 100" in screen(view, trainer)[0]
    assert "128 samples/s" in screen(view, trainer)[0]  # 64 samples in half a second
    assert "0:40 left" in screen(view, trainer)[0]
    view.on_fit_end(trainer)


def test_speed_after_a_resume_counts_only_this_time(now: Clock) -> None:
    trainer, view = Trainer(step_count=90), Progress(console=terminal())
    view.on_fit_start(trainer)
    now.now += 1.0
    trainer.step_count = 91
    view.on_step(trainer, record(90, a=1.0))
    assert "0:09 left" in screen(view, trainer)[0]
    view.on_fit_end(trainer)


def test_without_a_known_end_there_is_no_bar_and_no_time_left(now: Clock) -> None:
    trainer, view = Trainer(total_steps=None), Progress(console=terminal())
    view.on_fit_start(trainer)
    now.now += 1.0
    trainer.step_count = 1234
    view.on_step(trainer, record(0, a=1.0))
    assert screen(view, trainer)[0] == "step 1,234  64 samples/s"
    view.on_fit_end(trainer)


def test_given_total_goes_before_the_plan_of_the_trainer() -> None:
    trainer = Trainer(total_steps=100)
    assert "step 0 of 7" in screen(Progress(7, console=terminal()), trainer)[0]


def test_draws_at_most_eight_times_a_second(now: Clock) -> None:
    console = terminal()
    trainer, view = Trainer(), Progress(console=console)
    view.on_fit_start(trainer)
    sizes = []
    for step in range(1000):
        now.now += 0.001
        view.on_step(trainer, record(step, a=1.0))
        sizes.append(len(written(console)))
    assert 7 <= len(set(sizes)) - 1 <= 8
    view.on_fit_end(trainer)


def test_slow_drawing_becomes_rare_drawing(now: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, view = Trainer(), Progress(console=terminal())
    drawn = 0
    picture = Progress._picture

    def slow(self: Progress, trainer: Trainer, at: float) -> object:
        nonlocal drawn
        drawn += 1
        now.now += 0.03
        return picture(self, trainer, at)

    monkeypatch.setattr(Progress, "_picture", slow)
    view.on_fit_start(trainer)
    while now.now < 10:
        now.now += 0.01
        view.on_step(trainer, record(0, a=1.0))
    assert drawn * 0.03 <= 0.03 * 10 + 0.03
    assert drawn >= 9
    view.on_fit_end(trainer)


def test_a_step_costs_less_than_fifty_microseconds_between_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PERIOD", 3600.0)
    trainer, view = Trainer(), Progress(console=terminal())
    view.on_fit_start(trainer)
    row, times = record(0, **{f"task-{i}": 1.0 for i in range(20)}), []
    for _ in range(2000):
        start = time.perf_counter_ns()
        view.on_step(trainer, row)
        times.append(time.perf_counter_ns() - start)
    view.on_fit_end(trainer)
    assert statistics.median(times) < 50_000


def test_prints_nothing_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    trainer, view = Trainer(), Progress(console=Console(file=file, _environ={}))
    view.on_fit_start(trainer)
    view.on_task_start(trainer, "a")
    view.on_step(trainer, record(0, a=1.0))
    view.on_evaluation(trainer, {"step": 0, "accuracy": {"a": 1.0}})
    view.on_task_end(trainer, "a")
    view.on_fit_end(trainer)
    assert file.getvalue() == ""


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_leaves_the_terminal_clean_after_an_exception(error: type[BaseException]) -> None:
    console = terminal()
    trainer, view = Trainer(), Progress(console=console)
    stdout = sys.stdout

    def fit() -> None:
        view.on_fit_start(trainer)
        try:
            view.on_step(trainer, record(0, a=1.0))
            raise error
        finally:
            view.on_fit_end(trainer)

    with pytest.raises(error):
        fit()
    text = written(console)
    assert text.count(HIDE) == text.count(SHOW) == 1
    assert text.index(HIDE) < text.index(SHOW)
    assert text.rstrip(SHOW).endswith("\n")
    assert sys.stdout is stdout
    before = len(text)
    view.on_step(trainer, record(1, a=1.0))
    view.on_fit_end(trainer)
    assert len(written(console)) == before


def test_can_fit_twice() -> None:
    console = terminal()
    trainer, view = Trainer(), Progress(console=console)
    for _ in range(2):
        view.on_fit_start(trainer)
        view.on_step(trainer, record(0, a=1.0))
        view.on_fit_end(trainer)
    assert written(console).count(HIDE) == written(console).count(SHOW) == 2


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("tasks", [1, 5, 40])
def test_fits_the_screen(now: Clock, width: int, tasks: int) -> None:
    trainer, view = Trainer(step_count=12_345, total_steps=123_456), Progress(console=terminal())
    view.on_fit_start(trainer)
    names = [f"task-{i + 1} with a rather long name" for i in range(tasks)]
    for name in names:
        view.on_task_start(trainer, name)
    now.now += 0.01
    trainer.step_count += 1
    view.on_step(trainer, record(0, **{names[0]: 0.5, "MEMORY": 0.5}))
    lines = screen(view, trainer, width=width, height=20)
    assert len(lines) < 20
    assert max(map(len, lines)) <= width
    assert any(line.startswith("task-1 ") and "training" in line for line in lines)
    assert any(line.startswith("MEMORY") for line in lines)
    assert any("more" in line for line in lines) == (tasks == 40)
    view.on_fit_end(trainer)


def test_names_cannot_speak_to_the_terminal() -> None:
    trainer, view = Trainer(), Progress(console=terminal())
    view.on_task_start(trainer, "[red]\x1b[2J")
    assert line_of(screen(view, trainer), "[red]?[2J")


def test_a_terminal_without_unicode_gets_plain_letters() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=file, force_terminal=True, width=80, height=24, legacy_windows=False, _environ={})
    trainer, view = Trainer(), Progress(console=console)
    view.on_fit_start(trainer)
    view.on_step(trainer, record(0, a=1.0))
    view.on_fit_end(trainer)
    file.flush()
    assert b"##########" in raw.getvalue()


def test_bar_and_clock() -> None:
    assert [bar(share, 4) for share in (0, 0.5, 1, 7, -1)] == ["    ", "██  ", "████", "████", "    "]
    assert bar(1 / 32, 4) == "▏   "
    assert bar(0.5, 4, "#") == "##  "
    assert [clock(s) for s in (0, 59.6, 61, 3600, 7384)] == ["0:00", "1:00", "1:01", "1:00:00", "2:03:04"]


def test_a_missing_package_is_named_with_its_extra() -> None:
    code = "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None; "
    code += "from pcl.training.progress import Progress; Progress()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the progress view needs rich")
    assert "parallel-continual-learning[cli]" in last
