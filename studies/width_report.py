"""Table and picture of :mod:`studies.firefly_width`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl.compare.significance import paired_p
from studies.multi_fashion_mnist import spread

Found = Mapping[str, Mapping[int, Mapping[int, tuple[float, int]]]]
"""(accuracy, parameters) by method, number of growths and seed."""


def report(
    found: Found, cost: Mapping[str, Sequence[tuple[float, float]]], widths: Sequence[Sequence[int]], title: str
) -> str:
    """Markdown: accuracies by the number of growths, and pairs with the first method at the last.

    Args:
        cost: (seconds of a run, seconds of its growths), by method.
        widths: of the first method's layers at the end, by seed.
    """
    first = next(iter(found))
    growths = [n for n in sorted(found[first]) if n % 2 == 0]
    last = growths[-1]
    heads = [f"accuracy after {n} growths" if n else "accuracy before" for n in growths]
    columns = ["method", *heads, "parameters", f"{first} less it", "p", "s a run", "of these growing"]
    lines = [f"**{title}**; test accuracy in %, mean and standard deviation of {len(found[first][last])} seeds", ""]
    lines += ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for name, own in found.items():
        cells = [spread([a for a, _ in own[n].values()], 1) if n in own else "" for n in growths]
        size = f"{statistics.mean(p for _, p in own[last].values()):,.0f}"
        compared = ["", ""] if name == first else pair(found[first][last], own[last])
        seconds, growing = (f"{statistics.median(part):.1f}" for part in zip(*cost[name], strict=True))
        whole = [seconds, growing] if 0 in own else ["", ""]  # runs from scratch are of several lengths
        lines.append("| " + " | ".join([name, *cells, size, *compared, *whole]) + " |")
    ended = "; ".join("-".join(map(str, each)) for each in widths)
    return "\n".join([*lines, "", f"Widths of {first} in the end, by seed: {ended}."])


def pair(one: Mapping[int, tuple[float, int]], other: Mapping[int, tuple[float, int]]) -> list[str]:
    """Mean difference of the accuracies, and p of the paired t-test, over the seeds that both have."""
    differences = [one[seed][0] - other[seed][0] for seed in one if seed in other]
    p = paired_p(differences, range(len(differences)))
    return [f"{statistics.mean(differences):+.2f}", "" if p is None else f"{p:.2g}"]


def draw(found: Found, title: str, target: Path) -> None:
    """Mean accuracy over mean size, a point for every number of growths, bars of a standard error either way."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    from pcl.report.style import DASHES, LIGHT

    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    axis: Any = figure.subplots()
    for i, (name, own) in enumerate(found.items()):
        values = [[a for a, _ in own[n].values()] for n in sorted(own)]
        sizes = [statistics.mean(p for _, p in own[n].values()) for n in sorted(own)]
        errors = [statistics.stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in values]
        style = {"color": LIGHT[i % len(LIGHT)], "ls": DASHES[i // len(LIGHT)], "capsize": 2, "ms": 4}
        marker = "o" if 0 in own else "s"
        means = [statistics.mean(v) for v in values]
        axis.errorbar(sizes, means, yerr=errors, marker=marker, label=name, lw=2.2 if i == 0 else 1.3, **style)
    axis.set(xscale="log", xlabel="parameters", ylabel="test accuracy, %", title=title)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xticks([1000, 2000, 5000, 10_000], minor=False)
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110)
