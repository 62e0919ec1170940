"""Two tables of numbers as pictures: the accuracy matrix a_k^j, and cosines between task gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from pcl.report.run import FloatArray
from pcl.report.style import Canvas, Look, plain, points, step_axis, text_width
from pcl.report.thin import thin

PAIRS = 28  # more rows than this are no longer read one by one


def accuracy_matrix(
    rows: Sequence[str],
    tasks: Sequence[str],
    values: ArrayLike,
    ended: Sequence[Sequence[str]] | None = None,
    *,
    look: Look | None = None,
) -> Figure:
    """The matrix a_k^j in percent: row k a moment in time, column j a task, blank where not seen yet.

    Args:
        rows: what happened at each moment, for example "step 12: task-1".
        tasks: names of the columns.
        values: [len(rows), len(tasks)] accuracies as fractions, NaN where the task was not seen yet.
        ended: per row the tasks whose training ended then; their cells are framed.
    """
    look = look or Look()
    a = 100 * np.asarray(values, dtype=np.float64).reshape(len(rows), len(tasks))
    ended = ended or [()] * len(rows)
    labels = [plain(row, 22 if look.narrow else 34) for row in rows]
    left = max((text_width(label, look.text) for label in labels), default=0) + 34
    cell = 30.0 if look.narrow else 34.0
    heads = [plain(task, 12) for task in tasks]
    widest = max((text_width(head, look.text) for head in heads), default=0)
    # With many tasks the figure grows wider than a phone; the page lets it scroll.
    column = min(78.0, max(cell, (look.width - left - 12) / max(len(tasks), 1)))
    upright = widest > column - 6
    wide = column * len(tasks)
    canvas = Canvas(
        "Accuracy of each task (columns) whenever a task ended (rows)",
        "In percent. Framed: the task that ended. Empty: not started yet."
        + (" Scroll sideways for more tasks." if left + wide + 12 > look.width + 1 else ""),
        look,
        width=max(look.width, left + wide + 12),
    )
    head = (widest if upright else look.text) + 36
    row_height = 26.0 if len(rows) <= 8 else 21.0
    tall = row_height * len(rows)
    axes = canvas.axes(left, canvas.top + head, wide, tall)
    cmap, norm = colormaps["cividis"], Normalize(0, 100)
    axes.imshow(a, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
    shape = f"{{:.{0 if column < 44 else 1}f}}"
    middle: dict[str, Any] = {"ha": "center", "va": "center", "size": points(look.text)}
    for i, j in np.argwhere(np.isfinite(a)):
        ink = _on(cmap(norm(a[i, j])))
        axes.text(j, i, shape.format(a[i, j]), color=ink, **middle)
        if tasks[j] in ended[i]:
            frame = Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor=ink, linewidth=points(2))
            axes.add_patch(frame)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_yticks(range(len(rows)), labels)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(range(len(tasks)), heads, rotation=90 if upright else 0)
    axes.tick_params(length=0)
    axes.set_xlabel("task", size=points(look.text), color=look.ink, labelpad=points(8))
    canvas.label_rows("moment", canvas.top + head + tall / 2)
    return canvas.finish(canvas.top + head + tall + 8)


def gradient_cosines(steps: ArrayLike, names: Sequence[str], cosines: ArrayLike, *, look: Look | None = None) -> Figure:
    """Cosine between task gradients over time, blue for agreement and red for conflict.

    One row per pair of tasks that ever trained together; with more than 28 pairs one row per task, its mean
    cosine with the other tasks active in the step.

    Args:
        steps: [n] recorded steps, increasing.
        names: [T] task names.
        cosines: [n, T, T] symmetric, NaN where a task did not train or its gradient is zero.
    """
    look = look or Look()
    labels, values, by_task = cosine_rows(
        [plain(name, 9 if look.narrow else 15) for name in names], np.asarray(cosines, dtype=np.float64)
    )
    thinned = thin(steps, values, 300 if look.narrow else 800)
    title = "Do the gradients of the tasks agree? Mean cosine of each task with the others"
    if not by_task:
        title = "Do the gradients of the tasks agree? Cosine of every pair of tasks"
    note = "1: same direction, 0: independent, −1: opposed. Empty: not trained together, or a zero gradient."
    if thinned.size > 1:
        note += f" Mean of every {thinned.size} steps."
    canvas = Canvas(title, note, look)
    left = max((text_width(label, look.text) for label in labels), default=0) + 36
    row = 22.0 if len(labels) <= 10 else 18.0
    tall, wide = row * len(labels), canvas.width - left - 12
    axes = canvas.axes(left, canvas.top, wide, tall)
    cmap = diverging(look)
    mesh = axes.pcolormesh(
        thinned.edges, np.arange(len(labels) + 1) - 0.5, np.ma.masked_invalid(thinned.mean.T),
        cmap=cmap, vmin=-1, vmax=1, rasterized=True,
    )  # fmt: skip
    for edge in range(1, len(labels)):
        axes.axhline(edge - 0.5, color=look.paper, linewidth=points(1.5))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    canvas.label_rows("task" if by_task else "pair of tasks", canvas.top + tall / 2)
    step_axis(axes, look, (thinned.edges[0], thinned.edges[-1]))
    scale = canvas.axes(left, canvas.top + tall + 56, min(wide, 320), 10)
    colour_scale(scale, mesh, "gradient cosine", look)
    scale.set_xticks([-1, -0.5, 0, 0.5, 1])
    return canvas.finish(canvas.top + tall + 108)


def cosine_rows(names: Sequence[str], cosines: FloatArray) -> tuple[list[str], FloatArray, bool]:
    """Labels and values [n, rows] of the cosine plot, and whether rows are means by task."""
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    pairs = [(i, j) for i, j in pairs if np.isfinite(cosines[:, i, j]).any()]
    if len(pairs) <= PAIRS:
        labels = [f"{names[i]} × {names[j]}" for i, j in pairs]
        return labels, np.array([cosines[:, i, j] for i, j in pairs]).reshape(len(pairs), -1).T, False
    others = cosines.copy()
    others[:, np.arange(len(names)), np.arange(len(names))] = np.nan
    known = np.isfinite(others)
    count = known.sum(axis=2)
    mean = np.where(count > 0, np.where(known, others, 0.0).sum(axis=2) / np.maximum(count, 1), np.nan)
    return list(names), mean, True


def diverging(look: Look) -> Colormap:
    """Red to blue through a grey near the page: zero recedes, yet is not blank."""
    middle = "#3a414d" if look.dark else "#e6e9ed"
    red, blue = ("#ff8a5c", "#62b0ff") if look.dark else ("#b2182b", "#2166ac")
    strong = ("#ffd0b8", "#c9e4ff") if look.dark else ("#67001f", "#053061")
    return LinearSegmentedColormap.from_list("conflict", [strong[0], red, middle, blue, strong[1]])


def colour_scale(axes: Axes, mappable: ScalarMappable, label: str, look: Look) -> None:
    """A horizontal colour bar in `axes`, ticks below."""
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(mappable, cax=axes, orientation="horizontal")
    bar.outline.set_edgecolor(look.line)
    bar.set_label(label, size=points(look.text), color=look.ink)
    axes.tick_params(colors=look.muted, labelcolor=look.ink, labelsize=points(look.text))


def _on(colour: tuple[float, float, float, float]) -> str:
    """Black or white, whichever reads better on this colour."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return "#000000" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "#ffffff"
