"""The timeline of a run as a Gantt chart, with the weight λ of each task inside its bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from pcl.report.run import FloatArray
from pcl.report.style import Canvas, Look, Stroke, plain, points, step_axis, strokes, text_width
from pcl.report.thin import thin

BAR = 0.8  # of the height of a lane


def timeline(
    steps: ArrayLike,
    weights: Mapping[str, ArrayLike],
    planned: Mapping[str, tuple[int, int]] | None = None,
    *,
    look: Look | None = None,
) -> Figure:
    """One lane per task: a tinted bar while it trained, filled from below by λ, and its plan as an outline.

    The filled height is the square root of λ: where the weights of tasks differ by powers of ten, as those of a
    task with a small gradient do, a height in proportion would show the largest alone.

    Args:
        steps: [n] recorded steps, increasing.
        weights: λ per task, [n] each, NaN in steps where the task did not train.
        planned: first and last planned step per task, inclusive; tasks may be absent.
    """
    look = look or Look()
    planned = planned or {}
    names = list(weights)
    s = np.asarray(steps, dtype=np.float64)
    values = np.array([np.asarray(weights[name], dtype=np.float64) for name in names]).reshape(len(names), -1)
    thinned = thin(s, values.T, 280 if look.narrow else 800)
    full, beyond = _full_bar(thinned.mean)

    note = f"Filled height: square root of λ (a full bar is λ = {full:.2g}{' or more' if beyond else ''})"
    if thinned.size > 1:
        note += f", mean of every {thinned.size} steps"
    canvas = Canvas("When each task trained, and how much it weighed", note + ". Outline: planned.", look)

    axes, tall = _lanes(canvas, names, look)
    last = max([s[-1] + 1 if len(s) else 1.0, *(end + 1 for _, end in planned.values())])
    for i, name in enumerate(names):
        stroke = strokes(names, look)[name]
        if name in planned:
            _outline(axes, planned[name], i, look)
        _lane(axes, s, values[i], i, stroke)
        _fill(axes, thinned.edges, np.sqrt(thinned.mean[:, i].clip(min=0) / full), i, stroke)

    return _finished(canvas, axes, tall, last, look)


def plan(
    spans: Mapping[str, tuple[int, int]], shares: Mapping[str, ArrayLike] | None = None, *, look: Look | None = None
) -> Figure:
    """When the tasks of a scenario run, before anything has: one lane per task.

    Args:
        spans: first and last step per task, inclusive.
        shares: for tasks in one stream, their share of the batch of every step, [n] each; filled from below.
    """
    look = look or Look()
    note = "A bar for the steps of every task."
    if shares is not None:
        note = "One stream without boundaries. Filled: share of every batch. Outline: steps without transitions."
    canvas = Canvas("When each task runs", note, look)
    axes, tall = _lanes(canvas, list(spans), look)
    for i, (name, (start, end)) in enumerate(spans.items()):
        stroke = strokes(list(spans), look)[name]
        if shares is None:
            axes.broken_barh([(start, end + 1 - start)], (i - BAR / 2, BAR), facecolor=stroke.colour, linewidth=0)
        else:
            _outline(axes, (start, end), i, look)
            share = np.asarray(shares[name], dtype=np.float64)
            thinned = thin(np.arange(len(share), dtype=np.float64), share[:, None], 280 if look.narrow else 800)
            _fill(axes, thinned.edges, thinned.mean[:, 0], i, stroke)
    return _finished(canvas, axes, tall, 1.0 + max(end for _, end in spans.values()), look)


def _lanes(canvas: Canvas, names: Sequence[str], look: Look) -> tuple[Axes, float]:
    """Axes with one named lane per task, and their height."""
    lane = (28 if look.narrow else 34) if len(names) <= 8 else (20 if look.narrow else 24)
    left = 22 + max((text_width(plain(name, 14), look.text) for name in names), default=0) + 12
    tall = lane * max(len(names), 1)
    axes = canvas.axes(left, canvas.top, canvas.width - left - 12, tall)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [plain(name, 14) for name in names])
    axes.tick_params(axis="y", length=0)
    canvas.label_rows("task", canvas.top + tall / 2)
    return axes, tall


def _finished(canvas: Canvas, axes: Axes, tall: float, last: float, look: Look) -> Figure:
    axes.grid(axis="x", color=look.line, linewidth=points(1))
    axes.set_axisbelow(True)
    step_axis(axes, look, (0, last))
    return canvas.finish(canvas.top + tall + 46)


def _full_bar(means: FloatArray) -> tuple[float, bool]:
    """The λ of a full bar, and whether some λ is larger: rare peaks must not flatten everything else."""
    positive = means[means > 0]
    if not len(positive):
        return 1.0, False
    usual, largest = float(np.percentile(positive, 99)), float(positive.max())
    return (usual, True) if largest > 1.5 * usual else (largest, False)


def _outline(axes: Axes, plan: tuple[int, int], lane: int, look: Look) -> None:
    start, end = plan
    axes.add_patch(
        Rectangle(
            (start, lane - BAR / 2),
            end + 1 - start,
            BAR,
            fill=False,
            edgecolor=look.muted,
            linewidth=points(1),
            linestyle=(0, (3, 2)),
        )
    )


def _lane(axes: Axes, steps: FloatArray, weight: FloatArray, lane: int, stroke: Stroke) -> None:
    """A tinted bar for every unbroken run of recorded steps in which the task trained."""
    active = np.isfinite(weight)
    turns = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])).astype(np.int8)))
    after = np.append(steps, steps[-1] + 1) if len(steps) else steps
    spans = [(steps[a], after[b] - steps[a]) for a, b in zip(turns[::2], turns[1::2], strict=True)]
    axes.broken_barh(spans, (lane - BAR / 2, BAR), facecolor=stroke.colour, alpha=0.22, linewidth=0)


def _fill(axes: Axes, edges: FloatArray, share: FloatArray, lane: int, stroke: Stroke) -> None:
    """Fill the lane from its foot to `share` of its height; lanes count downwards."""
    foot = lane + BAR / 2
    tops = foot - BAR * np.clip(share, 0, 1)
    axes.stairs(tops, edges, baseline=foot, fill=True, color=stroke.colour, linewidth=0)
