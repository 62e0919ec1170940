"""Tables and pictures of the study of GMED's tables."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcl.compare.significance import paired_p
from studies.gmed_benchmarks import BENCHMARKS, ROWS
from studies.gmed_methods import GROWING, TUNED, VARIANTS

Found = Mapping[tuple[str, str], Mapping[int, float]]
"""Accuracies by (method, head) and seed."""

PAIRS = (
    ("ER + GMED", "ER"), ("MIR + GMED", "MIR"), ("MIR", "ER"), ("MIR + GMED", "ER + GMED"), ("ER + GMED", TUNED),
    ("ER + GMED", "ER + hindsight edit"), ("ER + GMED", "ER + GMED after the update"),
    ("ER + GMED", "ER + GMED, edit of others"), ("MIR + GMED", "MIR + GMED, edit of the retrieved"),
    ("MIR of other tasks", "MIR"), ("MIR of other tasks + GMED", "MIR of other tasks"),
    ("MIR of other tasks + GMED", "MIR + GMED"), ("MIR + GMED, stride 1", "MIR + GMED"),
    ("MIR + GMED, stride 10", "MIR + GMED"), ("MIR + GMED within 0 to 1", "MIR + GMED"),
    ("MIR + GMED, sign of the published code", "MIR + GMED"), ("ER + random edit, stride 0.5", TUNED),
    ("iid offline, 20 passes", "iid offline"), ("GEM without its margin", "GEM"), ("GEM, margin 1", "GEM"),
    ("GEM, ten times the memory", "GEM"), ("GSS-Greedy, compared with 3", "GSS-Greedy"),
    ("GSS-Greedy, compared with 100", "GSS-Greedy"), ("HAL with a reservoir", "HAL"),
    ("BGD, larger steps", "BGD"), ("iid online by BGD", "BGD"),
    ("iid online by BGD, larger steps", "BGD, larger steps"),
)  # fmt: skip


def by_seed(done: Mapping[str, Any], runs: Mapping[str, Any]) -> Found:
    """Of the runs, by their keys, those that are done."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for key, run in runs.items():
        if key in done:
            found.setdefault((run.method, run.head), {})[run.seed] = done[key]["accuracy"]
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def report(found: Found, dataset: str, stride: str) -> str:
    """Markdown: the published rows, pairs of methods, variants, and outputs that come with their task.

    Args:
        stride: a sentence on that of random edits.
    """
    lines = [f"**{dataset} MNIST**, accuracy in %, mean and standard deviation over the seeds", ""]
    lines += [
        "| method | here | seeds | published | difference | in published deviations |",
        "|---|---|---|---|---|---|",
    ]
    for name, (mean, deviation) in BENCHMARKS[dataset].published.items():
        values = _values(found, name)
        if values:
            difference = statistics.mean(values) - mean
            lines.append(
                f"| {name} | {spread(values)} | {len(values)} | {mean:.2f} ± {deviation:.1f} | {difference:+.2f} "
                f"| {difference / deviation:+.1f} |"
            )
        else:
            lines.append(f"| {name} | not run | 0 | {mean:.2f} ± {deviation:.1f} | | |")
    lines += ["", stride, "", "Paired t-tests over the seeds that both have, two-sided:", ""]
    lines += ["| method | less | difference | p |", "|---|---|---|---|"]
    lines += [
        f"| {one} | {other} | {tested(found[one, 'full'], found[other, 'full'])} |"
        for one, other in PAIRS
        if (one, "full") in found and (other, "full") in found
    ]
    variants = [name for name in VARIANTS if (name, "full") in found]
    if variants:
        lines += ["", "| variant | accuracy | seeds |", "|---|---|---|"]
        lines += [f"| {name} | {spread(_values(found, name))} | {len(_values(found, name))} |" for name in variants]
    growing = [name for name in GROWING if (name, "growing") in found]
    if growing:
        lines += ["", "| outputs | all from the start | with their task | difference | p |", "|---|---|---|---|---|"]
        lines += [
            f"| {name} | {spread(_values(found, name))} | {spread(_values(found, name, 'growing'))} "
            f"| {tested(found[name, 'growing'], found[name, 'full'])} |"
            for name in growing
        ]
    return "\n".join(lines) + "\n"


def overview(columns: Mapping[str, Found]) -> str:
    """Markdown: the published rows of all data sets beside each other."""
    lines = ["| method | " + " | ".join(f"{name}, here | published" for name in columns) + " |"]
    lines.append("|---|" + "---|" * (2 * len(columns)))
    for row in ROWS:
        cells = []
        for dataset, found in columns.items():
            mean, deviation = BENCHMARKS[dataset].published[row]
            values = _values(found, row)
            cells += [spread(values) if values else "not run", f"{mean:.2f} ± {deviation:.1f}"]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    counts = {
        name: [len(_values(found, row)) for row in ROWS if _values(found, row)] for name, found in columns.items()
    }
    seeds = [f"{name} {min(n)} to {max(n)}" if min(n) < max(n) else f"{name} {n[0]}" for name, n in counts.items() if n]
    return "\n".join([*lines, "", f"Seeds of a row: {', '.join(seeds)}."]) + "\n"


def tested(one: Mapping[int, float], other: Mapping[int, float]) -> str:
    """Mean difference over the seeds that both have, and the p of the paired t-test, as two cells."""
    differences = [one[seed] - other[seed] for seed in one if seed in other]
    if not differences:
        return "- | -"
    p = paired_p(differences, range(len(differences)))
    return f"{statistics.mean(differences):+.2f} | " + ("-" if p is None else f"{p:.2g}")


def draw(found: Found, dataset: str, target: Path) -> None:
    """Every seed as a dot, mean and standard deviation, and what was published."""
    from matplotlib.figure import Figure

    from pcl.report.style import LIGHT

    figure = Figure(figsize=(8.5, 5.4), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(reversed(ROWS)):
        values, (mean, deviation) = _values(found, name), BENCHMARKS[dataset].published[name]
        axis.plot(values, [place + 0.16] * len(values), "o", color=LIGHT[0], alpha=0.3, markersize=3.5, mew=0)
        points = [(-0.16, mean, deviation, LIGHT[1], "published")]
        if values:
            own = statistics.stdev(values) if len(values) > 1 else 0.0
            points.append((0.16, statistics.mean(values), own, LIGHT[0], "here"))
        for offset, m, d, colour, label in points:
            axis.errorbar(m, place + offset, xerr=d, fmt="D", color=colour, capsize=2.5, ms=4, label=label)
    axis.set_yticks(range(len(ROWS)), list(reversed(ROWS)))
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
    axis.set_xlabel(f"accuracy after the last task of {dataset} MNIST, %")
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(once.values(), once, frameon=False, loc="lower center", ncols=2, bbox_to_anchor=(0.5, 1.0))
    figure.savefig(target, dpi=110)


def _values(found: Found, method: str, head: str = "full") -> list[float]:
    return list(found.get((method, head), {}).values())
