"""How large a network is over time, where it grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pcl.report.style import Canvas, Look, points, step_axis

Sizes = tuple[Sequence[float], Sequence[float]]  # steps at which the size changes, and the size from there on


def sizes_over_time(sizes: Mapping[str, Sizes], last: float, *, look: Look | None = None) -> Figure:
    """Sizes of a network, one above the other, with a mark at every growth.

    Args:
        sizes: by what is counted; the first step is that with which the run begins.
        last: step with which it ends.
    """
    look = look or Look()
    canvas = Canvas("How large the network is", "Every mark is a growth.", look)
    left, tall, head = 64.0, 92.0 if look.narrow else 120.0, 22.0
    for i, (what, (steps, values)) in enumerate(sizes.items()):
        top = canvas.top + head + i * (tall + head + 14)
        axes = canvas.axes(left, top, canvas.width - left - 12, tall)
        x, y = (
            np.array([*steps, max(last, *steps)], dtype=np.float64),
            np.array([*values, values[-1]], dtype=np.float64),
        )
        axes.step(x, y, where="post", color=look.ink, linewidth=points(1.8))
        axes.plot(x[1:-1], y[1:-1], "o", color=look.ink, markersize=points(5))
        axes.set_ylim(0, 1.08 * y.max())
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
        axes.grid(color=look.line, linewidth=points(1))
        axes.set_axisbelow(True)
        axes.set_title(what, size=points(look.text), color=look.ink, loc="left", pad=points(5))
        margin = 0.012 * max(1.0, x[-1] - x[0])
        step_axis(axes, look, (x[0] - margin, x[-1] + margin), label=i == len(sizes) - 1)
        axes.tick_params(labelbottom=i == len(sizes) - 1)
    return canvas.finish(canvas.top + len(sizes) * (tall + head + 14) + 34)


def _short(value: float, _: int) -> str:
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1e3:g} k" if value >= 1e4 else f"{value:g}"
