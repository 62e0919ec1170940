"""The command line: ``pcl train``, ``compare``, ``list``, ``show``, ``report``, ``data``, ``download``."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

try:
    import rich
    import tyro
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
except ModuleNotFoundError as error:
    raise SystemExit(f"the command line needs {error.name}: pip install 'parallel-continual-learning[all]'") from error

from pcl import run
from pcl.compare.plan import Plan, families
from pcl.compare.store import PLAN
from pcl.config import RunConfig, check_scenario, config_from, read_config
from pcl.data.download import IMAGE_SETS, NAMES, download
from pcl.data.load import unpack, whereabouts
from pcl.methods import ARCHITECTURES, EDITS, LOSS_TERMS, NAMED, WEIGHTINGS
from pcl.named_memories import INFERENCES, MEMORIES, RETRIEVALS
from pcl.scenario_files import find_scenario, write_scenario
from pcl.scenarios import SCENARIOS, Times
from pcl.training.checkpoint import write_atomically


@dataclass(frozen=True)
class Train:
    """Train one model on the task streams of a scenario; write metrics, checkpoint and report into a run folder.

    --config FILE reads settings from a TOML file first; every run writes the config.toml that repeats it.
    """

    settings: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    name: str | None = None
    """name of the run folder; default: made from scenario, setting, method and seed"""
    runs: Path = Path("runs")
    """where run folders go"""
    resume: Path | None = None
    """run folder of an interrupted run to go on with; its own settings are used"""
    report: bool = True
    """write report.html and its pictures"""

    def __call__(self) -> None:
        from pcl.training.progress import Progress

        if self.resume is not None:
            if self.settings != RunConfig() or self.name is not None:
                raise ValueError("--resume takes the settings of the run it resumes; leave the others out")
            folder = self.resume
            results = run.resume(folder, [Progress()])
        else:
            s = self.settings
            default = f"{Path(s.scenario).stem}-{s.setting}-{s.method}-seed{s.seed}"
            folder = self.runs / self.name if self.name else run.free_folder(self.runs, default)
            results = run.start(s, folder, [Progress()])
        rich.print(_results_table(folder, results))
        if self.report:
            from pcl.report import write_report

            rich.print(f"report: {write_report(folder)}")


@dataclass(frozen=True)
class Compare:
    """Compare methods at one learning rate and at each one's own; write tables, pictures and a page.

    Interrupt it as you like: the same command goes on with what is missing.
    """

    plan: Annotated[Plan, tyro.conf.arg(name="")] = field(default_factory=Plan)
    name: str | None = None
    """name of the folder; default: made from scenario, settings and optimizers"""
    comparisons: Path = Path("compare")
    """where folders of comparisons go"""
    data_root: str = "data"
    """folder with the image sets"""
    processes: int | None = None
    """runs at a time; default: one per CPU core"""

    def __call__(self) -> None:
        from pcl.compare import compare
        from pcl.compare.terminal import terminal_table

        p = self.plan
        folder = self.comparisons / (
            self.name or "-".join((*(Path(name).stem for name in p.scenario), *p.settings, *p.optimizers))
        )
        try:
            tables = compare(p, folder, data_root=self.data_root, processes=self.processes)
        except KeyboardInterrupt as stopped:
            raise SystemExit("pcl: interrupted; the same command goes on with what is missing") from stopped
        for table in tables:
            rich.print(terminal_table(table))
        rich.print(f"results: {folder / 'results.html'}")


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, box=SIMPLE_HEAD, title_justify="left")


@dataclass(frozen=True)
class List:
    """Show the scenarios, weightings, edits, loss terms, memories, retrievals, inferences and architectures."""

    def __call__(self) -> None:
        scenarios = _table("Scenarios")
        for heading in ("scenario", "what it is", "data", "defaults"):
            scenarios.add_column(heading, no_wrap=heading == "scenario")
        for name, spec in SCENARIOS.items():
            file = spec.file or "bundled"
            times = "task-free" if spec.blur is not None else str(spec.timeline)
            defaults = f"{times}, batch {spec.batch_size}, memory {spec.memory_per_class}/class, lr {spec.lr:g}"
            scenarios.add_row(name, spec.summary, file, defaults)
        weightings = _table("Weightings", "weighting", "source")
        for name, weighting in WEIGHTINGS.items():
            weightings.add_row(name, weighting.source)
        edits = _table("Edits", "edit", "what it is", "acts", "source")
        for name, edit in EDITS.items():
            edits.add_row(f"+{name}", edit.summary, f"{edit.when} the update", edit.source)
        terms = _table("Loss terms", "loss term", "strength", "source")
        for name, term in LOSS_TERMS.items():
            terms.add_row(f"+{name}", f"{term.strength:g}", term.source)
        memories = _table("Memories", "--memory", "what it is", "source")
        for name, memory in MEMORIES.items():
            memories.add_row(name, memory.summary, memory.source)
        retrievals = _table("Retrieval", "--retrieval", "what it is", "source")
        for name, retrieval in RETRIEVALS.items():
            retrievals.add_row(name, retrieval.summary, retrieval.source)
        inferences = _table("Inference", "--inference", "what it is", "source")
        for name, inference in INFERENCES.items():
            inferences.add_row(name, inference.summary, inference.source)
        architectures = _table("Architectures", "--grow", "what it is", "source")
        for name, (what, source) in ARCHITECTURES.items():
            architectures.add_row(name, what, source)
        published = _table("Published methods", "method", "the same spelt out", "source")
        for name, method in NAMED.items():
            published.add_row(name, method.spelt_out, method.source)
        for table in (scenarios, weightings, edits, terms, memories, retrievals, inferences, architectures, published):
            rich.print(table)
        one, other = next(iter(EDITS)), next(iter(LOSS_TERMS))
        rich.print(
            "A method is a weighting with rehearsal, or a published method, alone or with an edit of its memory, a "
            f"loss term, or both: emgd-gmc, emgd-gmc+{one}, emgd-gmc+{other}, emgd-gmc+{one}+{other}, er+gmed, ..."
        )
        named = ", ".join(name for name in families() if "+" not in name)
        rich.print(f"Families for `pcl compare --methods`: {named}; each also with an edit, a loss term, or both.")


@dataclass(frozen=True)
class Show:
    """Show the tasks of a scenario and its fingerprint; draw it, or save it as a file that gives exactly the same."""

    scenario: tyro.conf.Positional[str]
    """see `pcl list`; or a scenario file, which ends in .toml"""
    data_root: Path = Path("data")
    """folder with the image sets"""
    label_set: int = 0
    """number of the random label sets"""
    timeline: Times | None = None
    """when the streams run; iid: all samples in one stream, in random order. Default: the scenario's"""
    timeline_number: int = 0
    """number of the random timeline"""
    batch_size: int | None = None
    """samples per task and step"""
    epochs: int | None = None
    """how often every sample is used"""
    draw: Path | None = None
    """PNG to draw it into"""
    save: Path | None = None
    """TOML file to save it in"""

    def __call__(self) -> None:
        check_scenario(self.scenario)
        spec = find_scenario(self.scenario)
        scenario = spec.build(
            self.scenario, spec.load(self.data_root), batch_size=self.batch_size, epochs=self.epochs,
            label_set=self.label_set, timeline=self.timeline, timeline_number=self.timeline_number,
        )  # fmt: skip
        print(scenario)
        if self.draw is not None:
            from pcl.report.plots import png
            from pcl.report.scenario import draw

            write_atomically(self.draw, png(draw(scenario)))
        if self.save is not None:
            write_scenario(self.save, spec, scenario, self.label_set)


@dataclass(frozen=True)
class Report:
    """Write the report of a run, or of a comparison, anew from the files in its folder."""

    folder: tyro.conf.Positional[Path]

    def __call__(self) -> None:
        if (self.folder / PLAN).is_file():
            from pcl.compare import report

            rich.print(f"results: {report(self.folder)}")
            return
        from pcl.report import write_report

        rich.print(f"report: {write_report(self.folder)}")


@dataclass(frozen=True)
class Download:
    """Download a public image set and store it as the scenarios read it, or a text."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="{" + ",".join(NAMES) + "}")]
    data_root: Path = Path("data")
    """folder to store it in"""

    def __call__(self) -> None:
        rich.print(f"wrote {download(self.data, self.data_root)}")


@dataclass(frozen=True)
class Data:
    """Show the image sets of the scenarios: which are there, how large, and how to get the others; or unpack one."""

    data_root: Path = Path("data")
    """folder with the image sets"""
    unpack: str | None = None
    """npz file, without its ending, to unpack into a folder that loads at once and may be larger than memory"""
    into: Path | None = None
    """data root for that folder; default: the same"""

    def __call__(self) -> None:
        if self.into is not None and self.unpack is None:
            raise ValueError("into: expected beside --unpack alone, which says what to unpack there")
        if self.unpack is not None:
            rich.print(f"wrote {unpack(self.unpack, self.data_root, self.into or self.data_root)}")
            return
        table = Table("data", "where", "scenarios", box=SIMPLE_HEAD)
        names = [name for name in IMAGE_SETS if any(spec.file == name for spec in SCENARIOS.values())]
        for name in names:
            of_set = ", ".join(scenario for scenario, spec in SCENARIOS.items() if spec.file == name)
            table.add_row(name, whereabouts(name, self.data_root), of_set)
        rich.print(table)


def _results_table(folder: Path, results: dict) -> Table:  # type: ignore[type-arg]
    table = Table("task", "accuracy at its end", "accuracy at the end", title=str(folder))
    for task, final in results["final"].items():
        table.add_row(task, f"{results['at_end'][task]:.1%}", f"{final:.1%}")
    table.caption = f"A {results['A']:.1%}   F {results['F']:+.1%}   {results['steps']} steps"
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``pcl`` command. What the user got wrong ends in one line on stderr and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = _one_line
    try:
        train = Train()
        if given[:1] == ["train"]:
            config, rest = _config_file(given[1:])
            given, train = ["train", *rest], Train(settings=config)
        commands = (
            Annotated[Train, tyro.conf.subcommand("train", default=train)]
            | Annotated[Compare, tyro.conf.subcommand("compare")]
            | Annotated[List, tyro.conf.subcommand("list")]
            | Annotated[Show, tyro.conf.subcommand("show")]
            | Annotated[Report, tyro.conf.subcommand("report")]
            | Annotated[Data, tyro.conf.subcommand("data")]
            | Annotated[Download, tyro.conf.subcommand("download")]
        )
        tyro.cli(commands, prog="pcl", args=given)()
    except (ValueError, TypeError, ArithmeticError, RuntimeError, OSError, ImportError) as error:
        raise SystemExit(f"pcl: {error}") from error
    except KeyboardInterrupt as stopped:
        raise SystemExit("pcl: interrupted; `pcl train --resume FOLDER` goes on from the last checkpoint") from stopped


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as people at a terminal want it: what it says, not where it was raised."""
    return f"pcl: {message}\n"


def _config_file(arguments: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The settings in the file behind ``--config``, or the defaults; and the arguments without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    known, rest = parser.parse_known_args(arguments)
    return (config_from(read_config(known.config)) if known.config else RunConfig()), rest
