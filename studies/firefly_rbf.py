"""RBF networks grown from 1 to 12 neurons: Fig. 5.3 of Bo Liu's dissertation (2025, Sec. 5.3.1).

    python -m studies.firefly_rbf [--iterations 1000 | --full] [--targets 20] [--spread variance] [--processes 1]

Functions of 15 neurons with weights from N(0, 3) are learned at 1,000 points of U(-5, 5) by networks that gain a neuron
at a time, with so many iterations of Adam between; ``--full`` has the published 10,000. Firefly is the library's own;
the others are in :mod:`studies.rbf_growth`. A target chooses the function, the points and the first neuron, and all
methods share them, so that they are compared in pairs.

Choices where the paper is silent: N(0, 3) and N(0, 0.1) give the variance, as the notation has it; ``--spread
deviation`` reads the 3 as a deviation. First neurons and those of scratch are from N(0, 1). Adam at 0.01, fresh after
every growth. All splits step by 0.1. Scratch has at every width as many iterations as the grown networks had in all up
to it, or as one stage of theirs has. Where no split lowers the loss, splitting steepest descent and Firefly without new
neurons leave the network as it is.

Runs that are done, ten targets each, are kept in ``studies/results/firefly_rbf/runs.jsonl`` and not repeated; the table
and the pictures are made from all that the file has. Interrupt and go on as you like.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from pcl.randomness import generator
from studies.rbf_growth import Grow, LibraryFirefly, RandomSearch, first_networks, steepest_split
from studies.rbf_networks import SPREADS, draw_targets, losses, train
from studies.rbf_report import Curves, draw, report
from studies.runs import complete, finished

RESULTS = Path(__file__).parent / "results" / "firefly_rbf"
WIDEST = 12
RATE = 0.01
CANDIDATE_STEPS = 100  # of candidates before they are scored, and of every trial of random search
AT_ONCE = 10  # targets of a run

METHODS = {
    "Firefly": ("firefly", 5),
    "Firefly (split)": ("firefly", 0),
    "Splitting": ("splitting", 0),
    "RandSearch (split)": ("search", 0),
    "RandSearch (split+new)": ("search", 5),
    "Scratch": ("scratch", 0),
    "Scratch, one stage": ("stage", 0),
}
"""Curves of Fig. 5.3a: how to grow, and the number of new neurons among the candidates."""

NEW = {f"m' = {new}": ("firefly", new) for new in (0, 1, 2, 5, 10)}
"""Curves of Fig. 5.3b."""


@dataclass(frozen=True)
class Run:
    """One method on the targets ``AT_ONCE * block`` and on."""

    method: str
    new: int
    block: int
    iterations: int
    spread: str


GROWTHS: dict[str, Callable[[int], Grow]] = {
    "firefly": lambda new: LibraryFirefly(new, CANDIDATE_STEPS),
    "splitting": lambda new: steepest_split,
    "search": lambda new: RandomSearch(new, CANDIDATE_STEPS, RATE),
}
"""By the number of new neurons among the candidates."""


def measure(run: Run) -> dict[str, Any]:
    """By target, the loss after training at 1 to 12 neurons and the number of neurons there."""
    torch.set_num_threads(1)
    numbers = range(AT_ONCE * run.block, AT_ONCE * (run.block + 1))
    targets = draw_targets(numbers, run.spread)
    networks, found, widths = first_networks(numbers, 1), [], []
    for width in range(1, WIDEST + 1):
        if run.method in ("scratch", "stage"):
            networks = first_networks(numbers, width)
        elif width > 1:
            draws = generator(run.block, "rbf growth", width)
            networks = GROWTHS[run.method](run.new)(networks, targets, draws)
        train(networks, targets, run.iterations * (width if run.method == "scratch" else 1), RATE)
        found.append(losses(networks, targets).tolist())
        widths.append([len(network.w) for network in networks])
    return {"losses": list(zip(*found, strict=True)), "widths": list(zip(*widths, strict=True))}


def runs(targets: int, iterations: int, spread: str) -> list[Run]:
    """Those of both figures, block by block."""
    kinds = dict.fromkeys([*METHODS.values(), *NEW.values()])
    blocks = range(-(-targets // AT_ONCE))
    return [Run(method, new, block, iterations, spread) for block in blocks for method, new in kinds]


def write(folder: Path) -> str:
    """The table, and a picture, for every number of iterations and reading of the spread that the file has, over the
    targets that all methods there have."""
    done = finished(folder / "runs.jsonl")
    made = [(Run(**json.loads(key)), found) for key, found in done.items()]
    parts = []
    for spread, iterations in sorted({(run.spread, run.iterations) for run, _ in made}, reverse=True):
        some = [(run, found) for run, found in made if (run.spread, run.iterations) == (spread, iterations)]
        kinds = {(run.method, run.new) for run, _ in some}
        common = set.intersection(*({run.block for run, _ in some if (run.method, run.new) == kind} for kind in kinds))
        some = [(run, found) for run, found in some if run.block in common]
        curves, other = ({name: joined(some, *kind) for name, kind in kinds.items()} for kinds in (METHODS, NEW))
        title = f"{iterations:,} iterations between growths, N(0, 3) with {spread} 3"
        parts.append(report({n: c for n, c in (curves | other).items() if c.losses}, title))
        draw(curves, other, folder / f"{spread}-{iterations}.png")
    text = "\n\n".join(parts) + "\n"
    (folder / "table.md").write_text(text)
    return text


def joined(made: list[tuple[Run, dict[str, Any]]], method: str, new: int) -> Curves:
    """All blocks, one after the other."""
    own = sorted(
        [(run.block, found) for run, found in made if (run.method, run.new) == (method, new)], key=itemgetter(0)
    )
    return Curves(
        [curve for _, found in own for curve in found["losses"]],
        [widths for _, found in own for widths in found["widths"]],
    )


def main() -> None:
    """Complete the study, then write table and pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=1000, help="between growths; the paper has 10000")
    parser.add_argument("--full", action="store_true", help="--iterations 10000")
    parser.add_argument("--targets", type=int, default=20, help=f"in blocks of {AT_ONCE}")
    parser.add_argument("--spread", choices=list(SPREADS), default="variance", help="what the 3 of N(0, 3) is")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    iterations = 10_000 if given.full else given.iterations
    complete(runs(given.targets, iterations, given.spread), RESULTS / "runs.jsonl", measure, given.processes)
    print(write(RESULTS))


if __name__ == "__main__":
    main()
