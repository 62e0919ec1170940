"""Table and pictures of :mod:`studies.firefly_rbf`."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcl.compare.significance import paired_p

SHOWN = (2, 4, 6, 8, 12)  # numbers of neurons, in the table
COMPARED = (6, 12)  # those at which methods are compared in pairs


@dataclass(frozen=True)
class Curves:
    """One method: by target and by the number of neurons allowed, the loss and the number of neurons that there are."""

    losses: Sequence[Sequence[float]]
    widths: Sequence[Sequence[int]]


def report(curves: Mapping[str, Curves], title: str) -> str:
    """Markdown: mean losses, and pairs with the first method: in how many targets its loss is lower, and the paired
    t-test on the logarithms."""
    first = next(iter(curves))
    heads = [f"loss at {width}" for width in SHOWN]
    pairs = [head for width in COMPARED for head in (f"{first} is lower at {width} in", "p")]
    columns = ["method", *heads, "typical at 12", *pairs, "neurons in the end"]
    lines = [
        f"**{title}**; mean training loss over {len(curves[first].losses)} targets, typical: geometric mean",
        "",
    ]
    lines += ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for name, own in curves.items():
        means = [f"{statistics.mean(curve[width - 1] for curve in own.losses):.2g}" for width in SHOWN]
        compared: list[str] = []
        for width in COMPARED:
            compared += ["", ""] if name == first else pair(curves[first].losses, own.losses, width)
        wide = statistics.mean(widths[-1] for widths in own.widths)
        typical = statistics.geometric_mean([curve[-1] for curve in own.losses])
        lines.append("| " + " | ".join([name, *means, f"{typical:.2g}", *compared, f"{wide:.1f}"]) + " |")
    return "\n".join(lines)


def pair(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]], width: int) -> list[str]:
    """In how many targets the one is lower at so many neurons, and p; over the targets that both have."""
    ratios = [math.log(b[width - 1] / a[width - 1]) for a, b in zip(one, other, strict=False)]
    p = paired_p(ratios, range(len(ratios)))
    return [f"{sum(ratio > 0 for ratio in ratios)} of {len(ratios)}", "" if p is None else f"{p:.2g}"]


def draw(methods: Mapping[str, Curves], new: Mapping[str, Curves], target: Path) -> None:
    """Fig. 5.3: mean losses over the number of neurons, with a band of a standard error of the mean either way."""
    from matplotlib.figure import Figure

    from pcl.report.style import DASHES, LIGHT

    colours = (*LIGHT, "0.45")
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    axes: Any = figure.subplots(1, 2, sharey=True)
    for axis, curves, title in zip(axes, (methods, new), ("ways to grow", "Firefly by new candidates"), strict=True):
        for i, (name, own) in enumerate(curves.items()):
            if own.losses:
                columns = list(zip(*own.losses, strict=True))
                means = [statistics.mean(column) for column in columns]
                errors = [_error(column) for column in columns]
                low, high = zip(*((max(m - e, m / 10), m + e) for m, e in zip(means, errors, strict=True)), strict=True)
                neurons = range(1, len(means) + 1)
                axis.fill_between(neurons, low, high, color=colours[i], alpha=0.12, linewidth=0)
                style = {"color": colours[i], "ls": DASHES[i % len(DASHES)]}
                axis.plot(neurons, means, marker="o", ms=3.5, label=name, **style)
        axis.set(yscale="log", title=title, xlabel="neurons allowed")
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=9)
    axes[0].set_ylabel("training loss, mean over targets")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)


def _error(column: Sequence[float]) -> float:
    return statistics.stdev(column) / math.sqrt(len(column)) if len(column) > 1 else 0.0
