"""A and F of the five weightings with and without memory editing: the first table of the README.

    python -m studies.weightings --data-root DIR [--processes 2] [--optimizer adam|sgd]

For every scenario (PS-Digits, PS-EMNIST), setting (task, class) and method:

1. Choose the edit's step size, then every method's learning rate, on validation data: a fifth of the training images,
   on label sets, timelines and seeds that the table does not use. No test image takes part.
2. Measure at the scenario's single learning rate and at each method's own, on 5 situations: label set i, timeline i and
   seed 1234 + i for i = 0..4.

Runs that are done are kept in ``studies/results/weightings-<optimizer>.jsonl`` and not repeated; table and picture are
made from that file. Interrupt and go on as you like.
"""

import argparse
import json
import statistics
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from pcl.config import RunConfig
from pcl.data.images import ImageData
from pcl.methods import METHODS as ALL_METHODS
from pcl.run import build
from pcl.scenarios import SCENARIOS

RESULTS = Path(__file__).parent / "results"
METHODS_COMPARED = tuple(w + edit for w in ("sum", "mean", "mgda", "emgd-gmc", "emgd-gs") for edit in ("", "+me"))
STUDIED = ("ps-digits", "ps-emnist")
WEIGHTINGS = ("sum", "mean", "mgda", "emgd-gmc", "emgd-gs")
METHODS = {name: method for name, method in ALL_METHODS.items() if method.weighting in WEIGHTINGS}
SETTINGS = ("task", "class")
LEARNING_RATES = {"adam": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), "sgd": (1e-2, 3e-2, 0.1, 0.3, 1.0)}
SINGLE_RATE = {"adam": 3e-3, "sgd": 0.1}
ALPHAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
ALPHA_METHOD = "emgd-gmc+me"
SITUATIONS = tuple(range(5))
VALIDATION = (100, 101, 102, 103)


@dataclass(frozen=True)
class Run:
    """One run of the study; ``situation`` chooses label set, timeline and seed."""

    scenario: str
    setting: str
    method: str
    optimizer: str
    lr: float
    alpha: float | None
    situation: int

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return json.dumps(asdict(self), sort_keys=True)


@cache
def _data(scenario: str, data_root: str, validation: bool) -> ImageData:
    data = SCENARIOS[scenario].load(Path(data_root))
    return data.validation_split(0.2) if validation else data


def measure(run: Run, data_root: str) -> dict[str, float]:
    """A and F of one run."""
    torch.set_num_threads(1)
    config = RunConfig(
        scenario=run.scenario,
        method=run.method,
        setting=run.setting,  # type: ignore[arg-type]
        optimizer=run.optimizer,  # type: ignore[arg-type]
        data_root=data_root,
        seed=1234 + run.situation,
        label_set=run.situation,
        timeline_number=run.situation,
        lr=run.lr,
        edit_alpha=run.alpha,
        evaluate_every=10**9,
    )
    _, trainer = build(config, _data(run.scenario, data_root, run.situation in VALIDATION))
    try:
        trainer.fit()
    except FloatingPointError:  # diverged: the worst there is
        return {"A": 0.0, "F": -1.0}
    results = trainer.results()
    return {"A": results["A"], "F": results["F"]}


class Study:
    """Runs what is missing and remembers what is done."""

    def __init__(self, optimizer: str, data_root: str, processes: int) -> None:
        self.optimizer, self.data_root, self.processes = optimizer, data_root, processes
        self.path = RESULTS / f"weightings-{optimizer}.jsonl"
        self.done: dict[str, dict[str, float]] = {}
        if self.path.exists():
            text = self.path.read_text()
            if not text.endswith("\n"):  # interrupted in the middle of a line
                text = text[: text.rfind("\n") + 1]
                self.path.write_text(text)
            for line in text.splitlines():
                entry = json.loads(line)
                self.done[json.dumps(entry["run"], sort_keys=True)] = entry["results"]

    def ensure(self, runs: Iterable[Run], what: str) -> None:
        """Have a result of every run."""
        missing = list({run.key: run for run in runs if run.key not in self.done}.values())
        if not missing:
            return
        RESULTS.mkdir(exist_ok=True)
        with ProcessPoolExecutor(self.processes) as pool, self.path.open("a") as file:
            futures = {pool.submit(measure, run, self.data_root): run for run in missing}
            for future in track(as_completed(futures), what, total=len(futures)):
                run, results = futures[future], future.result()
                self.done[run.key] = results
                file.write(json.dumps({"run": asdict(run), "results": results}) + "\n")
                file.flush()

    def mean_accuracy(self, runs: Iterable[Run]) -> float:
        """Mean A of runs that are done."""
        return statistics.mean(self.done[run.key]["A"] for run in runs)

    def run(self, scenario: str, setting: str, method: str, lr: float, alpha: float, situation: int) -> Run:
        """A run, in which a method without edit has no alpha."""
        return Run(scenario, setting, method, self.optimizer, lr, alpha if METHODS[method].edit else None, situation)

    def alpha_runs(self, scenario: str, setting: str) -> Iterator[tuple[float, list[Run]]]:
        """For every alpha its validation runs."""
        rate = SINGLE_RATE[self.optimizer]
        for alpha in ALPHAS:
            yield alpha, [self.run(scenario, setting, ALPHA_METHOD, rate, alpha, v) for v in VALIDATION]

    def alpha(self, scenario: str, setting: str) -> float:
        """The alpha with the best validation accuracy."""
        scores = {alpha: self.mean_accuracy(runs) for alpha, runs in self.alpha_runs(scenario, setting)}
        return max(scores, key=lambda alpha: scores[alpha])

    def rate_runs(self, scenario: str, setting: str, method: str) -> Iterator[tuple[float, list[Run]]]:
        """For every learning rate the validation runs of a method."""
        alpha = self.alpha(scenario, setting)
        for lr in LEARNING_RATES[self.optimizer]:
            yield lr, [self.run(scenario, setting, method, lr, alpha, v) for v in VALIDATION]

    def rate(self, scenario: str, setting: str, method: str) -> float:
        """The learning rate with the best validation accuracy."""
        scores = {lr: self.mean_accuracy(runs) for lr, runs in self.rate_runs(scenario, setting, method)}
        return max(scores, key=lambda lr: scores[lr])

    def final_runs(self, scenario: str, setting: str, method: str, *, own_rate: bool) -> list[Run]:
        """The runs that the table averages."""
        lr = self.rate(scenario, setting, method) if own_rate else SINGLE_RATE[self.optimizer]
        alpha = self.alpha(scenario, setting)
        return [self.run(scenario, setting, method, lr, alpha, i) for i in SITUATIONS]

    def complete(self) -> None:
        """Do all that is missing, in the order in which the choices need each other."""
        cells = [(scenario, setting) for scenario in STUDIED for setting in SETTINGS]
        self.ensure((r for cell in cells for _, runs in self.alpha_runs(*cell) for r in runs), "edit step sizes")
        each = [(*cell, method) for cell in cells for method in METHODS_COMPARED]
        self.ensure((r for one in each for _, runs in self.rate_runs(*one) for r in runs), "learning rates")
        self.ensure((r for one in each for own in (False, True) for r in self.final_runs(*one, own_rate=own)), "table")


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent."""
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def summary(study: Study, *, own_rate: bool) -> str:
    """Markdown: one table, a row per method, A and F of every scenario and setting."""
    cells = [(scenario, setting) for scenario in STUDIED for setting in SETTINGS]
    values = {
        method: [
            [study.done[r.key][key] for r in study.final_runs(*cell, method, own_rate=own_rate)]
            for cell in cells
            for key in "AF"
        ]
        for method in METHODS_COMPARED
    }
    best = [max(statistics.mean(row[c]) for row in values.values()) for c in range(2 * len(cells))]
    lines = [
        "| method | " + " | ".join(f"{name} {setting} {key}" for name, setting in cells for key in "AF") + " |",
        "|---" * (1 + 2 * len(cells)) + "|",
    ]
    for method, row in values.items():
        shown = [
            f"**{spread(cell)}**" if statistics.mean(cell) == top else spread(cell)
            for cell, top in zip(row, best, strict=True)
        ]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def table(study: Study) -> str:
    """Markdown: one table per scenario and setting; a rate at the edge of those tried is marked."""
    rates = LEARNING_RATES[study.optimizer]
    single = SINGLE_RATE[study.optimizer]
    parts = []
    for scenario in STUDIED:
        for setting in SETTINGS:
            alpha = study.alpha(scenario, setting)
            parts += [
                f"**{scenario}, {setting}-incremental** ({study.optimizer}, edit alpha {alpha:g})\n",
                f"| method | A at lr {single:g} | F at lr {single:g} | own lr | A at own lr | F at own lr |",
                "|---|---|---|---|---|---|",
            ]
            rows: dict[str, list[Any]] = {}
            for method in METHODS_COMPARED:
                cells: list[Any] = []
                for own in (False, True):
                    results = [study.done[r.key] for r in study.final_runs(scenario, setting, method, own_rate=own)]
                    cells += [[r["A"] for r in results], [r["F"] for r in results]]
                rows[method] = cells
            best = [max(statistics.mean(cells[c]) for cells in rows.values()) for c in range(4)]
            for method, cells in rows.items():
                shown = [
                    f"**{spread(cell)}**" if statistics.mean(cell) == top else spread(cell)
                    for cell, top in zip(cells, best, strict=True)
                ]
                rate = study.rate(scenario, setting, method)
                edge = " (edge)" if rate in (min(rates), max(rates)) else ""
                parts.append(f"| {method} | {shown[0]} | {shown[1]} | {rate:g}{edge} | {shown[2]} | {shown[3]} |")
            parts.append("")
    return "\n".join(parts)


def draw(study: Study, target: Path) -> None:
    """A with its standard deviation at both learning rates, one panel per scenario and setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.2), layout="constrained")
    axes: Any = figure.subplots(2, 2)
    for axis, (scenario, setting) in zip(axes.flat, [(a, b) for a in STUDIED for b in SETTINGS], strict=True):
        for offset, own, label in ((0.15, False, f"lr {SINGLE_RATE[study.optimizer]:g}"), (-0.15, True, "own best lr")):
            values = [
                [100 * study.done[r.key]["A"] for r in study.final_runs(scenario, setting, m, own_rate=own)]
                for m in METHODS_COMPARED
            ]
            heights = [len(METHODS_COMPARED) - i + offset for i in range(len(METHODS_COMPARED))]
            means, deviations = map(statistics.mean, values), map(statistics.stdev, values)
            axis.errorbar(list(means), heights, xerr=list(deviations), fmt="o", capsize=3, label=label)
        axis.set_yticks([len(METHODS_COMPARED) - i for i in range(len(METHODS_COMPARED))], list(METHODS_COMPARED))
        axis.set(title=f"{scenario}, {setting}-incremental", xlabel="average accuracy A (%)")
        axis.grid(axis="x", color="0.9")
    axes[0, 0].legend(frameon=False)
    figure.savefig(target, dpi=100)


def main() -> None:
    """Complete the study, then write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--optimizer", choices=LEARNING_RATES, default="adam")
    given = parser.parse_args()
    study = Study(given.optimizer, given.data_root, given.processes)
    study.complete()
    text = table(study)
    (RESULTS / f"weightings-{given.optimizer}.md").write_text(text)
    for own_rate, name in ((False, "single-rate"), (True, "own-rate")):
        (RESULTS / f"summary-{given.optimizer}-{name}.md").write_text(summary(study, own_rate=own_rate) + "\n")
    draw(study, RESULTS / f"weightings-{given.optimizer}.png")
    print(text)


if __name__ == "__main__":
    main()
