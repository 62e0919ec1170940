"""What a step of every method costs, measured at the end, when nothing else runs in this comparison.

One method after the other, in turns, with one thread: a miniature of the first situation, its images thinned out so
that the whole timeline takes about ``cost_steps`` steps, without evaluation. Only steps in which the memory takes part
are counted (all steps, if there is none): they are the ones in which all parts of a method are at work. The cost is the
median over these steps of the fastest of several rounds: a step is the same in every round, so that what is more than
the fastest comes from elsewhere.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pcl.compare.plan import Entry, Plan
from pcl.compare.trial import DIVERGED, data_of
from pcl.run import build
from pcl.streams.stream import is_memory
from pcl.training.checkpoint import write_atomically

COSTS = "costs.json"
ROUNDS = 5


def measure_costs(
    plan: Plan, folder: Path, data_root: str, tell: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write ``costs.json`` with the milliseconds of a step of every entry; None where its numbers went wrong.

    Args:
        tell: called with the number of measurements done and their total.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times: dict[Entry, list[list[float]]] = {entry: [] for entry in plan.entries}
    try:
        turns = [
            Entry(condition, method)
            for condition in plan.conditions
            for _ in range(ROUNDS)
            for method in plan.method_names
        ]
        for done, entry in enumerate(turns, 1):
            times[entry].append(_steps(plan, entry, data_root))
            tell(done, len(turns))
    finally:
        torch.set_num_threads(threads)
    found = [
        {"entry": entry.axes, "ms": 1e3 * statistics.median(fastest) if fastest else None, "steps": len(fastest)}
        for entry, rounds in times.items()
        for fastest in [[min(step) for step in zip(*rounds, strict=True)]]
    ]
    content = {"threads": 1, "device": plan.device, "torch": torch.__version__, "costs": found}
    write_atomically(folder / COSTS, json.dumps(content, indent=1).encode())


def read_costs(folder: Path, plan: Plan) -> dict[Entry, float]:
    """Milliseconds per step of the entries of which it is known; empty if there is no file."""
    if not (folder / COSTS).is_file():
        return {}
    rows: list[dict[str, Any]] = json.loads((folder / COSTS).read_text())["costs"]
    known = {tuple(row["entry"]): row["ms"] for row in rows if row["ms"] is not None}
    return {entry: known[entry.axes] for entry in plan.entries if entry.axes in known}


def _steps(plan: Plan, entry: Entry, data_root: str) -> list[float]:
    """Seconds of the steps that count in one run of the miniature."""
    trial = plan.trial(entry, plan.given_rate(entry.condition), plan.cases[0])
    config = trial.config(data_root)
    data = data_of(trial.scenario, data_root, False)
    whole, _ = build(config, data)
    _, trainer = build(config, data, share=plan.cost_steps / whole.timeline.steps)
    for stream in trainer.streams.values():
        stream.test = None
    waits = (lambda: torch.cuda.synchronize(trainer.device)) if trainer.device.type == "cuda" else (lambda: None)
    timed: list[tuple[bool, float]] = []
    try:
        while True:
            waits()
            since = time.perf_counter()
            result = trainer.step()
            waits()
            if result is None:
                break
            timed.append((any(map(is_memory, result.tasks)), time.perf_counter() - since))
    except DIVERGED:
        return []
    return [seconds for counts, seconds in timed if counts] or [seconds for _, seconds in timed]
