"""What the report says of a network that grows: one line for every growth, and the sizes in between."""

from __future__ import annotations

from dataclasses import dataclass

from pcl.report.run import Run
from pcl.report.summary import prefixed, signed


@dataclass(frozen=True)
class GrowthRow:
    """One line of the table of growths, ready to print."""

    step: str
    tasks: str
    split: str
    copied: str
    new: str
    where: str
    neurons: str
    parameters: str
    predicted: str
    measured: str


def rows(run: Run) -> list[GrowthRow]:
    """All growths, in their order."""
    return [
        GrowthRow(
            step=str(growth["step"]),
            tasks=", ".join(growth["tasks"]),
            **{kind: str(sum(gain[kind] for gain in growth["gained"].values())) for kind in ("split", "copied", "new")},
            where=", ".join(f"{name} {a} → {b}" for name, (a, b) in growth["widths"].items() if a != b) or "—",
            neurons=" → ".join(map(str, growth["neurons"])),
            parameters=" → ".join(prefixed(count).strip() for count in growth["parameters"]),
            predicted=signed(growth["predicted"], 4),
            measured=signed(growth["measured"], 4),
        )
        for growth in run.growths
    ]


def sizes(run: Run, what: str) -> tuple[list[int], list[int]]:
    """Steps at which a size changes, and the size from there on; ``what`` is ``"neurons"`` or ``"parameters"``."""
    first = int(run.steps[0]) if len(run.steps) else 0
    steps = [first, *(int(growth["step"]) for growth in run.growths)]
    return steps, [int(run.growths[0][what][0]), *(int(growth[what][1]) for growth in run.growths)]


def caption(run: Run) -> str:
    """Below the curve of sizes."""
    _, neurons = sizes(run, "neurons")
    times = "once" if len(run.growths) == 1 else f"{len(run.growths)} times"
    most = max(len(growth["tasks"]) for growth in run.growths)
    together = f"; up to {most} tasks grew at once, under one budget" if most > 1 else ""
    return (
        f"The network grew {times}, from {neurons[0]} to {neurons[-1]} neurons{together}. What finished tasks use is "
        "locked, so that their accuracy does not change."
    )
