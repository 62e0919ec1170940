"""The picture of a scenario."""

from __future__ import annotations

from matplotlib.figure import Figure

from pcl.report.style import Look
from pcl.report.timeline import plan
from pcl.streams.scenario import Scenario
from pcl.streams.task_free import TaskFree


def draw(scenario: Scenario | TaskFree, *, seed: int = 0, look: Look | None = None) -> Figure:
    """When its tasks run; of a stream without boundaries, the share of every task in each batch.

    Args:
        seed: of the run whose batches are shown, where they differ.
    """
    if isinstance(scenario, TaskFree):
        return plan(_spans(scenario.hidden), scenario.shares(seed), look=look)
    return plan(_spans(scenario), look=look)


def _spans(scenario: Scenario) -> dict[str, tuple[int, int]]:
    times = zip(scenario.tasks, scenario.timeline.starts, scenario.timeline.ends, strict=True)
    return {task.name: (start, end) for task, start, end in times}
