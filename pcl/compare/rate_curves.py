"""The searches for learning rates, a small panel each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pcl.compare.plan import Entry, Plan
from pcl.compare.search import Results, candidates, score
from pcl.compare.table import Table
from pcl.report.style import DARK, LIGHT, Canvas, Look, plain, points, text_width


def rate_searches(plan: Plan, table: Table, results: Results, *, look: Look | None = None) -> Figure:
    """Validation accuracy over the learning rate, one panel per method, all others in grey behind it."""
    look = look or Look()
    tried = candidates(plan, table.condition)
    n = plan.first
    canvas = Canvas(
        f"The search for learning rates: {table.condition.title}",
        f"Mean validation accuracy over the {'situation' if n == 1 else f'{n} situations'} of the first round. Large: "
        f"stayed for later rounds. Ring: chosen, by all its rounds. Dotted: the given rate {table.given_rate:g}. "
        "Cross: a run failed.",
        look,
    )
    names = [row.method for row in table.rows]
    curves = {name: _curve(plan, Entry(table.condition, name), tried, results) for name in names}
    columns = min(3 if look.narrow else 6, max(3, len(names)))
    left, gap, tall, head = 58.0, 10.0, 62.0 if look.narrow else 74.0, 20.0
    wide = (canvas.width - left - 12 - gap * (columns - 1)) / columns
    hue = (DARK if look.dark else LIGHT)[0]
    known = [y for ys in curves.values() for y in ys if math.isfinite(y)] or [0.0, 1.0]
    span = max(max(known) - min(known), 1.0)
    floor, roof = min(known) - 0.12 * span, max(known) + 0.1 * span
    for i, row in enumerate(table.rows):
        line, column = divmod(i, columns)
        axes = canvas.axes(left + column * (wide + gap), canvas.top + line * (tall + head + 6) + head, wide, tall)
        axes.set_xscale("log")
        others = [list(zip(tried, _broken(curves[name]), strict=True)) for name in names if name != row.method]
        behind = LineCollection(others, colors=look.muted, alpha=0.18, linewidths=points(0.8))
        axes.add_collection(behind, autolim=False)
        axes.axvline(table.given_rate, color=look.muted, linewidth=points(1), linestyle=(0, (1.2, 1.6)))
        own = curves[row.method]
        axes.plot(tried, _broken(own), color=hue, linewidth=points(1.6), marker="o", markersize=points(2.6))
        stayed = _stayed(plan, Entry(table.condition, row.method), tried, results)
        kept = [(x, y) for x, y, s in zip(tried, own, stayed, strict=True) if s and math.isfinite(y)]
        axes.plot([x for x, _ in kept], [y for _, y in kept], "o", color=hue, markersize=points(5.2))
        fell = [x for x, y in zip(tried, own, strict=True) if not math.isfinite(y)]
        axes.plot(fell, [floor + 0.06 * span] * len(fell), "x", color=look.ink, markersize=points(4.6))
        chosen = own[tried.index(row.own.rate)]
        if math.isfinite(chosen):
            axes.plot(
                row.own.rate, chosen, "o", markersize=points(8.5), markerfacecolor=look.paper, markeredgecolor=hue,
                markeredgewidth=points(2), zorder=5, clip_on=False,
            )  # fmt: skip
        axes.set_ylim(floor, roof)
        axes.set_xlim(tried[0] / 1.6, tried[-1] * 1.6)
        axes.set_xticks(*_decades(tried, 2 if look.narrow else 3))
        axes.minorticks_off()
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.set_title(
            _fitting(row.method, wide, look),
            size=points(look.text),
            color=look.ink,
            loc="left",
            pad=points(4),
        )
        axes.tick_params(labelleft=column == 0, labelbottom=i + columns >= len(names))
    below = canvas.top + -(-len(names) // columns) * (tall + head + 6)
    canvas.label_rows("validation A (%)", (canvas.top + below) / 2)
    height = below + 44
    canvas.figure.text(
        (left + canvas.width - 12) / 2 / canvas.width, 4 / height, "learning rate",
        size=points(look.text), color=look.ink, ha="center", va="bottom",
    )  # fmt: skip
    return canvas.finish(height)


def _curve(plan: Plan, entry: Entry, tried: Sequence[float], results: Results) -> list[float]:
    """Validation accuracy in the first round in percent; minus infinity where a run failed."""
    if len(tried) == 1:
        return [-math.inf]
    return [100 * score(plan.validation_trials(entry, rate, plan.first), results) for rate in tried]


def _stayed(plan: Plan, entry: Entry, tried: Sequence[float], results: Results) -> list[bool]:
    """Whether a rate was run in the second round."""
    return [plan.validation_trials(entry, rate, plan.first + 1)[-1] in results for rate in tried]


def _fitting(name: str, wide: float, look: Look) -> str:
    """As much of a name as stands above a panel of that width."""
    most = len(name)
    while most > 1 and text_width(plain(name, most), look.text) > wide:
        most -= 1
    return plain(name, most)


def _broken(values: Sequence[float]) -> list[float]:
    return [value if math.isfinite(value) else math.nan for value in values]


def _decades(tried: Sequence[float], most: int) -> tuple[list[float], list[str]]:
    """At most so many powers of ten within the rates, as ticks."""
    low, high = math.ceil(math.log10(tried[0]) - 1e-9), math.floor(math.log10(tried[-1]) + 1e-9)
    powers = list(range(low, high + 1))
    step = max(1, -(-len(powers) // most))
    chosen = powers[::step]
    return [10.0**power for power in chosen], [f"{10.0**power:g}" for power in chosen]
