"""`write_report`: from the folder of a run to `report.html`, a single file that asks the network for nothing.

Every plot is in the page four times, for light and dark and for phone and desktop; the browser picks one.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcl.notices import say_once
from pcl.report import summary
from pcl.report.run import Run, read_run
from pcl.streams.stream import is_memory
from pcl.training.checkpoint import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure

    from pcl.report.figures import Plot
    from pcl.report.style import Look


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` and one PNG per plot into the folder of a run, finished or not.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: the folder, or `config.toml`, `scenario.json` or `metrics.jsonl` in it, is missing.
        ValueError: a file in it cannot be understood; the message names it.
        ImportError: matplotlib or jinja2 is missing; the message names the extra to install.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError(
            "the report needs jinja2, which is not installed; install it with "
            "pip install 'parallel-continual-learning[report]'"
        ) from error
    from pcl.report import growths, style

    folder = Path(run_dir)
    run = read_run(folder)
    environment = Environment(
        loader=PackageLoader("pcl.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("template.html").render(
        run=run,
        method=str(run.config.get("method", "unknown method")),
        headline=summary.headline(run),
        notes=[note for note in (summary.unfinished(run), summary.starvation(run)) if note],
        plots=_plots(run),
        tasks=summary.task_rows(run),
        growths=growths.rows(run),
        settings=[(key, _setting(value)) for key, value in run.config.items()],
        command=f"pcl train --config {shlex.quote(_shown(folder / 'config.toml'))}",
        colours=_task_colours(run, style),
        light=style.Look(),
        dark=style.Look(dark=True),
    )
    target = folder / "report.html"
    write_atomically(target, page.encode("utf-8"))
    return target


def _plots(run: Run) -> list[Plot]:
    from pcl.report import clouds, growths, plots
    from pcl.report.figures import shown

    out: list[Plot] = []

    def add(name: str, heading: str, caption: str, alt: str, draw: Callable[[Look], Figure]) -> None:
        out.append(shown(run.folder, name, heading, caption, alt, draw))

    text = summary.captions(run)
    if len(run.steps):
        planned = {t.name: (t.start, t.end) for t in run.tasks if t.start is not None and t.end is not None}
        add(
            "timeline", "Timeline", text.timeline,
            f"Gantt chart with one lane for each of {len(run.names)} streams.",
            lambda look: plots.timeline(run.steps, run.weight, planned, look=look),
        )  # fmt: skip
    if run.evaluations:
        curves = summary.accuracy_curves(run)
        spans = {name: (start, run.ends.get(name)) for name, start in run.starts.items() if not is_memory(name)}
        add(
            "accuracy", "Accuracy over time", text.accuracy,
            f"Line chart of the accuracy of {len(curves)} tasks over training steps.",
            lambda look: plots.accuracy_over_time(curves, spans, look=look),
        )  # fmt: skip
        moments, averages = summary.process(run)
        if len(moments) > 1:
            add(
                "process", "Learning process", text.process,
                f"Line chart of the average accuracy at {len(moments)} moments in which a task ended.",
                lambda look: plots.learning_process(moments, {"": averages}, look=look),
            )  # fmt: skip
        rows, values, ended = summary.matrix(run)
        if values.size > 1:
            tasks = [task.name for task in run.tasks]
            add(
                "matrix", "Accuracy matrix", text.matrix,
                f"Table of accuracies: {len(rows)} moments in time as rows, {len(tasks)} tasks as columns.",
                lambda look: plots.accuracy_matrix(rows, tasks, values, ended, look=look),
            )  # fmt: skip
    if run.growths:
        sizes = {what: growths.sizes(run, what) for what in ("neurons", "parameters")}
        add(
            "sizes", "Size of the network", growths.caption(run),
            f"Line charts of the neurons and parameters of the network, with {len(run.growths)} growths.",
            lambda look: plots.sizes_over_time(sizes, float(run.steps[-1]), look=look),
        )  # fmt: skip
    if summary.has_cosines(run):
        add(
            "cosines", "Agreement of the gradients", text.cosines,
            "Heat map of the cosine between task gradients over training steps.",
            lambda look: plots.gradient_cosines(run.steps, run.names, run.cosine, look=look),
        )  # fmt: skip
    if summary.any_known(run.conflict):
        add(
            "conflict", "Conflict over time", text.conflict,
            "Line charts of the share of task pairs in conflict and of the similarity of gradient lengths.",
            lambda look: plots.conflict_over_time(run.steps, run.conflict, run.similarity, look=look),
        )  # fmt: skip
    if summary.any_known(*run.share.values()):
        add(
            "descent", "What each step does for every task", text.descent,
            f"Line chart of the share of the possible descent that the steps give to {len(run.names)} streams.",
            lambda look: plots.descent_shares(run.steps, run.share, run.starved, look=look),
        )  # fmt: skip
    if summary.any_known(*run.fall.values()):
        add(
            "falls", "Measured descent", text.falls,
            f"Line chart of the measured fall of the loss of {len(run.names)} streams in each step.",
            lambda look: plots.measured_falls(run.steps, run.fall, look=look),
        )  # fmt: skip
    if len(run.steps):
        add(
            "losses", "Losses over time", text.losses,
            f"Line chart of the training loss of {len(run.names)} streams over training steps.",
            lambda look: plots.losses(run.steps, run.loss, look=look),
        )  # fmt: skip
    if run.images is not None:
        images = run.images
        labels = [(task, f"class {c}") for task, c in zip(images.tasks, images.classes, strict=True)]
        add(
            "memory", "Memory samples", text.memory,
            "Rows of stored images before editing, after editing, and their difference.",
            lambda look: plots.memory_samples(images.before, images.after, labels, images.gradient, look=look),
        )  # fmt: skip
    try:
        panels = clouds.clouds(run)
    except ImportError as error:  # the rest of the report needs nothing of it
        say_once(f"the report is without the figure of features: {error}")
        panels = []
    if panels:
        add(
            "features", "Features of finished tasks", clouds.caption(run),
            f"{len(panels)} scatter plots of test samples by class, in pairs for the end of a task and of the run.",
            lambda look: plots.feature_maps(panels, look=look),
        )  # fmt: skip
    return out


def _task_colours(run: Run, style: Any) -> list[tuple[str, str]]:
    """Colours of the tasks for a light and for a dark page, in the order of the table."""
    names = [task.name for task in run.tasks]
    light, dark = style.strokes(names, style.Look()), style.strokes(names, style.Look(dark=True))
    return [(light[name].colour, dark[name].colour) for name in names]


def _setting(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(path: Path) -> str:
    """The path as one would type it: relative to the working directory where it lies below it."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.as_posix()
