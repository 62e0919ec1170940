"""Tables and picture of :mod:`studies.tiny_shakespeare`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.multi_fashion_mnist import spread

Results = Sequence[Mapping[str, Any]]
"""Of one model: what its runs found, one per seed."""


def table(rows: Mapping[str, Sequence[str]], names: Sequence[str], corner: str) -> str:
    """Markdown: a column per model."""
    lines = [f"| {corner} | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    lines += [f"| {row} | " + " | ".join(cells) + " |" for row, cells in rows.items()]
    return "\n".join(lines)


def spreads(values: Sequence[Sequence[float] | None]) -> list[str]:
    """A cell per model: mean and deviation over its seeds; a dash where there is nothing. The least is bold."""
    least = min(statistics.mean(v) for v in values if v)
    cells = ["–" if v is None else spread(list(v)) for v in values]
    return [f"**{c}**" if v and statistics.mean(v) == least else c for c, v in zip(cells, values, strict=True)]


def size_and_cost(
    found: Mapping[str, Results], rates: Mapping[str, float], costs: Mapping[str, Any], positions: Sequence[int]
) -> str:
    """What the models are, and what a character costs."""
    rows = {
        "parameters": [f"{results[0]['parameters']:,}" for results in found.values()],
        "learning rate": [f"{rates[name]:g}" for name in found],
        "training, characters per second": [f"{costs['training'][name]:,.0f}" for name in found],
    }
    for position, milliseconds in zip(positions, costs["generation"], strict=True):
        rows[f"generation behind {position:,}, ms per character"] = [f"{milliseconds[name]:.2f}" for name in found]
    return table(rows, list(found), "")


def search(losses: Mapping[str, Mapping[float, float]]) -> str:
    """Validation losses of the short runs at the rates that each model tried, its best in bold."""

    def cell(own: Mapping[float, float], rate: float) -> str:
        if rate not in own:
            return "–"
        return f"**{own[rate]:.3f}**" if own[rate] == min(own.values()) else f"{own[rate]:.3f}"

    rates = sorted({rate for own in losses.values() for rate in own})
    rows = {f"{rate:g}": [cell(own, rate) for own in losses.values()] for rate in rates}
    return table(rows, list(losses), "learning rate")


def losses(found: Mapping[str, Results], lengths: Sequence[int]) -> str:
    """Bits per character, by how the model reads."""
    context = lengths[0]
    rows = {
        f"validation, windows of {context}": spreads([[r["curve"][-1][1] for r in rs] for rs in found.values()]),
    }
    for i, length in enumerate(lengths):
        rows[f"test, windows of {length:,}"] = spreads([[r["by_context"][i] for r in rs] for rs in found.values()])
    rows[f"test, a window of {context} that slides by {context // 4}"] = spreads(
        [[r["sliding"] for r in rs] for rs in found.values()]
    )
    rows["test, one pass with the state carried"] = spreads(
        [None if rs[0]["carried"] is None else [r["carried"] for r in rs] for rs in found.values()]
    )
    return table(rows, list(found), "bits per character")


def draw(
    found: Mapping[str, Results],
    costs: Mapping[str, Any],
    lengths: Sequence[int],
    positions: Sequence[int],
    target: Path,
) -> None:
    """Loss over the steps, over the length of context and over the position, and the cost of a character."""
    from matplotlib.figure import Figure

    from pcl.report.style import LIGHT

    figure = Figure(figsize=(11, 7.6), layout="constrained")
    axes: Any = figure.subplots(2, 2).flatten()
    context, names = lengths[0], list(costs["training"])
    bins = [(i + 0.5) * context for i in range(lengths[-1] // context)]
    for name, results in found.items():
        colour = LIGHT[names.index(name.split(",")[0])]
        look = {"color": colour, "linestyle": "-" if name in names else "--", "label": name}
        band(axes[1], lengths, [r["by_context"] for r in results], look)
        band(axes[2], bins, [r["by_position"] for r in results], look)
        if name in names:
            band(axes[0], [n for n, _ in results[0]["curve"]], [[b for _, b in r["curve"]] for r in results], look)
            axes[3].plot(positions, [at[name] for at in costs["generation"]], marker="o", markersize=4, **look)
        if results[0]["carried"] is None:  # it reads long texts in a window that slides
            slid = statistics.mean(r["sliding"] for r in results)
            axes[1].axhline(slid, color=colour, linestyle=":")
            axes[1].text(lengths[-1], slid, f"{name}, sliding window", color=colour, va="bottom", ha="right")
    axes[0].set(title=f"Training: validation loss, windows of {context}", xlabel="steps")
    axes[1].set(title="Test loss over the length of windows", xlabel="characters in a window")
    axes[2].set(title="Test loss over the position in a window, enlarged", xlabel="position")
    inside = [bits for rs in found.values() for r in rs if r["carried"] is not None for bits in r["by_position"]]
    margin = 0.15 * (max(inside) - min(inside))
    axes[2].set_ylim(min(inside) - margin, max(inside) + margin)  # a model that cannot extrapolate leaves the picture
    axes[3].set(title="Cost of generation, one thread", xlabel="characters before", ylabel="ms per character")
    axes[3].set_ylim(bottom=0)
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(lengths, [f"{n:,}" for n in lengths])
    axes[1].minorticks_off()
    axes[2].axvline(context, color="0.5", linestyle=":")
    axes[2].text(
        1.15 * context, 0.97, "length of training", transform=axes[2].get_xaxis_transform(), va="top", color="0.4"
    )
    for axis in axes:
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_size(11)
        if axis is not axes[1]:
            axis.xaxis.set_major_formatter("{x:,.0f}")
        if axis is not axes[3]:
            axis.set_ylabel("bits per character")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside upper center", ncols=len(found), frameon=False)
    figure.savefig(target, dpi=110)


def band(axis: Any, x: Sequence[float], ys: Sequence[Sequence[float]], look: Mapping[str, Any]) -> None:
    """Mean of the seeds as a line, from lowest to highest shaded."""
    middle = [statistics.mean(y) for y in zip(*ys, strict=True)]
    low, high = ([end(y) for y in zip(*ys, strict=True)] for end in (min, max))
    axis.plot(x, middle, linewidth=1.8, **look)
    axis.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
