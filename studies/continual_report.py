"""Table and picture of :mod:`studies.firefly_continual`."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studies.multi_fashion_mnist import spread

Found = Sequence[tuple[Any, dict[str, Any]]]
"""Runs, and what they found."""


def rows(found: Found) -> dict[tuple[str, int, int], list[dict[str, Any]]]:
    """Results of all seeds by (method, width, growth)."""
    result: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for run, own in found:
        result.setdefault((run.method, run.width, run.growth), []).append(own)
    return dict(sorted(result.items()))


def report(found: Found, title: str) -> str:
    """Markdown: a row per method and size."""
    columns = ["method", "parameters", "accuracy", "of each task at its end", "lost", "bits kept", "seeds", "s a run"]
    lines = [f"**{title}**; accuracy in %, mean and standard deviation over the seeds", ""]
    lines += ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for (method, width, growth), own in rows(found).items():
        name = f"{method}, width {width}" + (f", {growth} neurons a task" if growth else "")
        parameters = f"{statistics.mean(r['parameters'] for r in own):,.0f}"
        at_end = [statistics.mean(r["at_end"]) for r in own]
        accuracy = [r["accuracy"] for r in own]
        lost = statistics.mean(a - b for a, b in zip(at_end, accuracy, strict=True))
        kept = f"{sum(r['kept'] for r in own)} of {len(own)}"
        seconds = f"{statistics.median(r['seconds'] for r in own):.0f}"
        cells = [name, parameters, spread(accuracy, 1), spread(at_end, 1), f"{lost:.2f}", kept, str(len(own)), seconds]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: Found, title: str, target: Path) -> None:
    """Accuracy over size, every seed a dot, their mean a larger one; and how accuracy on tasks fares after them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from pcl.report.style import LIGHT

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axis: Any = figure.subplots()
    methods = list(dict.fromkeys(method for method, *_ in rows(found)))
    for i, method in enumerate(methods):
        means = []
        for (name, *_), own in rows(found).items():
            if name == method:
                sizes, accuracies = ([r[key] for r in own] for key in ("parameters", "accuracy"))
                axis.plot(sizes, accuracies, "o", color=LIGHT[i], alpha=0.3, markersize=4, mew=0)
                means.append((statistics.mean(sizes), statistics.mean(accuracies)))
        axis.plot(*zip(*sorted(means), strict=True), "-D", color=LIGHT[i], markersize=5, label=method)
    axis.set(xscale="log", xlabel="parameters of all tasks together", title=title)
    axis.set_ylabel("accuracy over the ten tasks in the end, %")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
