"""Tables I to VI and Figures 5, 7 and 8 of Lyu et al., *Elastic Multi-Gradient Descent for Parallel Continual
Learning* (arXiv 2401.01054).

    python -m studies.emgd_tables --table I II --scenario ps-emnist --data-root DIR [--full | --situations N]
    python -m studies.emgd_tables --table I II --own-rates        # and every method at its own learning rate
    python -m studies.emgd_tables --figure alpha 5 7 8
    python -m studies.emgd_tables --table switches                # paper and published code
    python -m studies.emgd_tables --table II --gradients-over all --epochs 11
    python -m studies.emgd_tables --table all --device cuda --width 64 --full     # make reproduce-gpu

``--figure alpha`` first: the step size of the edit is not published, and what is best on validation streams is then
taken everywhere else. The images of EMNIST at hand may be a subset: with ``--epochs 11`` a tenth of them makes as many
steps as all would. ``--share 0.05`` is the same in miniature, with a twentieth of the training images. Interrupt and go
on as you like: runs that are done are not repeated.

Results are in ``studies/results/emgd_tables``, those of a GPU in a folder with its name.
"""

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pcl.compare import Plan, compare
from pcl.compare.trial import measure
from pcl.data.load import is_there
from pcl.scenarios import SCENARIOS
from studies.emgd_tables import RESULTS, curves, learning, switches, tables
from studies.emgd_tables.curves import CURVES
from studies.emgd_tables.ground import SETTINGS, Ground
from studies.emgd_tables.published import LAYOUTS, ROWS, scenarios
from studies.runs import complete

FIGURES = (*CURVES, "7")


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=[*LAYOUTS, "switches", "all"], default=[])
    parser.add_argument("--figure", nargs="+", choices=[*FIGURES, "all"], default=[])
    parser.add_argument("--scenario", nargs="+", choices=sorted({s for t in LAYOUTS for s in scenarios(t)}))
    parser.add_argument("--methods", nargs="+", choices=ROWS, help="rows of the tables; default: all")
    parser.add_argument("--data-root", default="data")
    parser.add_argument("--situations", type=int, default=5, help="label set i, timeline i and seed i; at least 2")
    parser.add_argument("--full", action="store_true", help="3 label sets x 3 timelines x 3 seeds, in tables")
    parser.add_argument("--own-rates", action="store_true", help="search every method's own learning rate too")
    parser.add_argument("--share", type=float, default=1.0, help="of the training images of every task")
    parser.add_argument("--epochs", type=int, help="default: those of the table")
    parser.add_argument(
        "--gradients-over", choices=["backbone", "all"], default="backbone",
        help="what tasks are weighed on: as in the paper, or with the heads, as in its published code",
    )  # fmt: skip
    parser.add_argument("--width", type=int, help="of the ResNet-18 for coloured images, 64 is the whole one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    return parser.parse_args()


def folder_of(given: argparse.Namespace) -> Path:
    """Whatever changes all runs has a folder of its own; the device stands there with its name."""
    parts = []
    if given.device != "cpu":
        parts.append(re.sub(r"\W+", "-", torch.cuda.get_device_name(given.device)).lower())
    parts += ["heads"] if given.gradients_over == "all" else []
    parts += [f"epochs-{given.epochs}"] if given.epochs else []
    parts += [f"width-{given.width}"] if given.width else []
    parts += [f"share-{given.share:g}"] if given.share != 1 else []
    return RESULTS.joinpath("-".join(parts)) if parts else RESULTS


class Study:
    """What the arguments ask for."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.folder = folder_of(given)

    def ground(self, scenario: str) -> Ground:
        """Where pictures and switches are made."""
        return Ground(scenario, self.given.situations, tuple(self._options(scenario).items()))

    def alpha(self, scenario: str) -> dict[str, float]:
        """The step size of the edit by setting, as far as ``--figure alpha`` has found it."""
        path = self.folder / f"alpha-{scenario}.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def table(self, table: str, scenario: str) -> Iterator[str]:
        """Complete one, setting by setting."""
        given = self.given
        grid = tables.FULL if given.full else None
        common = Plan(situations=given.situations, grid=grid, **self._options(scenario))
        for setting in LAYOUTS[table].settings:
            name = f"table-{table}-{scenario}-{setting}" + ("" if given.full else f"-{given.situations}-situations")
            single, own = self.folder / name, self.folder / f"{name}-own-rates"
            plan = tables.plan_of(
                table, scenario, setting, common, chosen=given.methods, alpha=self.alpha(scenario).get(setting),
                own=given.own_rates,
            )  # fmt: skip
            where = own if given.own_rates else single
            tables.take_up(where, plan)
            compare(plan, where, data_root=given.data_root, processes=given.processes, console=Console())
            yield self._write(
                name,
                tables.markdown(table, scenario, setting, tables.read(single) or tables.read(own), tables.read(own)),
            )

    def switches(self, scenario: str) -> str:
        """Complete the table of switches."""
        ground = self.ground(scenario)
        done = self._complete(switches.trials(ground), "switches", measure)
        return self._write(f"switches-{scenario}", switches.table(ground, done))

    def figure(self, figure: str, scenario: str) -> str:
        """Complete a picture."""
        ground = self.ground(scenario)
        target = self.folder / f"{'alpha' if figure == 'alpha' else f'figure-{figure}'}-{scenario}"
        alpha = {} if figure == "alpha" else self.alpha(scenario)
        if figure == "7":
            runs = learning.runs(ground, alpha)
            done = self._complete(runs, "courses", learning.measure)
            learning.draw(ground, alpha, done, target.with_suffix(".png"))
            return str(target)
        curve = CURVES[figure]
        done = self._complete(curves.trials(curve, ground, alpha), "curves", measure)
        if figure == "alpha":
            best = {setting: curves.best_alpha(ground, setting, done) for setting in SETTINGS}
            target.with_suffix(".json").write_text(json.dumps(best) + "\n")
        curves.draw(curve, ground, alpha, done, target.with_suffix(".png"))
        return self._write(target.name, curves.table(curve, ground, alpha, done))

    def _complete(self, runs: Sequence[Any], name: str, make: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        given = self.given
        start = None if given.device == "cpu" else "spawn"
        path, of_data = self.folder / f"{name}.jsonl", partial(make, data_root=given.data_root)
        return complete(runs, path, of_data, given.processes, start)

    def _options(self, scenario: str) -> dict[str, Any]:
        """Settings of all runs that are not the usual ones."""
        given = self.given
        settings = {
            "epochs": (given.epochs, None),
            "share": (given.share, 1.0),
            "width": (None if scenario == "ps-emnist" else given.width, None),
            "gradients_over": (given.gradients_over, "backbone"),
            "device": (given.device, "cpu"),
        }
        return {name: value for name, (value, usual) in settings.items() if value != usual}

    def _write(self, name: str, text: str) -> str:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.md").write_text(text)
        return text


def main() -> None:
    """Figures first: the tables take the step size of the edit from there."""
    given = arguments()
    torch.set_num_threads(1)
    study = Study(given)

    def wanted(offered: list[str]) -> Iterator[str]:
        """Those that were asked for and whose images are there."""
        for scenario in offered:
            if given.scenario is not None and scenario not in given.scenario:
                continue
            if scenario not in SCENARIOS or not is_there(SCENARIOS[scenario].file, Path(given.data_root)):
                print(f"{scenario}: its images are not in {given.data_root}; left out")
            else:
                yield scenario

    for figure in FIGURES if "all" in given.figure else given.figure:
        for scenario in wanted(given.scenario or ["ps-emnist"]):
            print(study.figure(figure, scenario))
    for table in (*LAYOUTS, "switches") if "all" in given.table else given.table:
        for scenario in wanted(["ps-emnist"] if table == "switches" else scenarios(table)):
            if table == "switches":
                print(study.switches(scenario))
            else:
                for text in study.table(table, scenario):
                    print(text)


if __name__ == "__main__":
    main()
