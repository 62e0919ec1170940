"""Accuracy of every method at both rates, or at the one that there is."""

from __future__ import annotations

import statistics

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pcl.compare.table import Measured, Row, Table
from pcl.report.style import DARK, LIGHT, Canvas, Look, legend, legend_height, plain, points, text_width


def accuracies(table: Table, *, look: Look | None = None) -> Figure:
    """A of every method at both rates, with its standard deviation; one lane per method, the best on top. Once where
    every method's own rate is the given one."""
    look = look or Look()
    n = len(table.rows[0].own.by_case)
    both = any(row.own.rate != table.given_rate for row in table.rows)
    order = "the best at its own rate on top" if both else f"lr {table.given_rate:g}, the best on top"
    canvas = Canvas(
        f"Average accuracy: {table.condition.title}", f"Mean and standard deviation over {n} situations; {order}.", look
    )
    names = [plain(row.method, 24) for row in table.rows]
    kinds = [f"lr {table.given_rate:g} for all", "own learning rate"] if both else []
    lane = 24.0 if len(names) <= 12 else 19.0
    left = 20 + max(text_width(name, look.text) for name in names) + 14
    top, tall = canvas.top + (legend_height(kinds, look) if both else 0), lane * len(names)
    axes = canvas.axes(left, top, canvas.width - left - 26, tall)
    hues = DARK if look.dark else LIGHT
    handles = []
    series = [(0.17, hues[1], look.paper, _single), (-0.17, hues[0], hues[0], _own)]
    if not both:
        series = [(0.0, hues[0], hues[0], _own)]
    for offset, hue, face, of in series:
        whole = [(i, of(row)) for i, row in enumerate(table.rows) if not of(row).errors]
        handles.append(
            axes.errorbar(
                [100 * one.mean for _, one in whole],
                [i + offset for i, _ in whole],
                xerr=[100 * statistics.stdev(one.A) for _, one in whole],
                fmt="o",
                color=hue,
                markerfacecolor=face,
                markersize=points(6.5),
                markeredgewidth=points(1.6),
                elinewidth=points(1.4),
            )
        )
    low = axes.get_xlim()[0]
    for i, row in enumerate(table.rows):
        for offset, _, _, of in series:
            if of(row).errors:
                given = of(row) is row.single or not both
                _text(axes, low, i + offset, "failed" if given else "failed at its own rate", look)
    axes.set_xlim(left=low)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=look.line, linewidth=points(1))
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5 if look.narrow else 10, steps=[1, 2, 5, 10]))
    axes.set_xlabel("average accuracy A (%)", size=points(look.text), color=look.ink)
    canvas.label_rows("method", top + tall / 2)
    height = top + tall + 46
    figure = canvas.finish(height)
    if both:
        legend(canvas, kinds, handles, canvas.top, height)
    return figure


def _single(row: Row) -> Measured:
    return row.single


def _own(row: Row) -> Measured:
    return row.own


def _text(axes: Axes, x: float, y: float, words: str, look: Look) -> None:
    axes.text(x, y, words, size=points(look.text), color=look.muted, ha="left", va="center")
