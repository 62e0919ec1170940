"""The methods of GMED's Tables 2 and 3, and variants that the paper does not have, as compositions for a trainer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pcl import (
    AGEM,
    BGD,
    GEM,
    HAL,
    MIR,
    BeforeUpdate,
    ClassMemory,
    GMEDEdit,
    GSSGreedy,
    Mean,
    RandomEdit,
    ReservoirMemory,
    Sum,
)
from studies.gmed_benchmarks import BENCHMARKS
from studies.gss_by_batches import GSSByBatches
from studies.updates_per_batch import GSSOncePerBatch, InTurn, ReservoirOncePerBatch

BATCH = 10
LEARNING_RATE = 0.05
MEMORY = 500


@dataclass(frozen=True)
class Run:
    """One training of the study; ``stride`` is that of random edits, ``head`` whether outputs come with their task."""

    dataset: str
    method: str
    seed: int
    head: str = "full"
    stride: float | None = None
    held_out: bool = False


def _replay(**more: Any) -> dict[str, Any]:
    return {"weighting": Sum(), "memory": ReservoirMemory(MEMORY), "memory_batch": BATCH, **more}


def _mir(*, finished_only: bool = False) -> MIR:
    return MIR(50, lr=LEARNING_RATE, finished_only=finished_only)


def _gmed(run: Run, *, stride: float | None = None, **more: Any) -> GMEDEdit:
    setting = BENCHMARKS[run.dataset]
    alpha = setting.alpha if stride is None else stride
    # The published step: of the mean loss of the batch, and without a clamp.
    given = {"beta": setting.beta, "lr": LEARNING_RATE, "mean_loss": True, "valid": None, **more}
    return GMEDEdit(alpha, **given)


def _mir_gmed(run: Run, retrieval: MIR | None = None, **more: Any) -> dict[str, Any]:
    return _replay(retrieval=retrieval or _mir(), edit=BeforeUpdate(_gmed(run, **more), "others"))


def _random(run: Run, stride: float | None) -> dict[str, Any]:
    assert stride is not None
    return _replay(edit=BeforeUpdate(RandomEdit(stride, seed=run.seed, valid=None)))


def _last(run: Run, times: int = 1) -> ClassMemory:
    return ClassMemory(times * BENCHMARKS[run.dataset].kept, keep="last")


def _gem(run: Run, margin: float, times: int = 1) -> dict[str, Any]:
    return _replay(
        weighting=GEM(margin, variant="code"), memory=_last(run, times), memory_batch=MEMORY, memory_tasks="each",
        gradients_over="all",
    )  # fmt: skip


def _bgd(run: Run, **more: float) -> dict[str, Any]:
    return {"optimizer": partial(BGD, samples=BATCH, seed=run.seed, **more)}


TURNS = {"memory in turn": 2, "2 times in turn": 4, "3 times in turn": 6}


def updates(run: Run) -> int:
    """On every batch."""
    return TURNS.get(run.method.rpartition(", ")[2], 1)


def _in_turn(memory: Callable[[int, int], Any], run: Run) -> dict[str, Any]:
    return _replay(weighting=InTurn(), gradients_over="all", memory=memory(MEMORY, updates(run)))


Compose = Callable[[Run], dict[str, Any]]
"""What the trainer is given for a run."""

METHODS: dict[str, Compose] = {
    "fine-tuning": lambda run: {},
    "iid online": lambda run: {},
    "iid offline": lambda run: {},
    "A-GEM": lambda run: _replay(weighting=AGEM(), memory_batch=256, gradients_over="all"),
    "GEM": lambda run: _gem(run, margin=0.5),
    "GSS-Greedy": lambda run: _replay(memory=GSSGreedy(MEMORY)),
    "BGD": lambda run: _bgd(run),
    "HAL": lambda run: _replay(memory=_last(run), loss_terms=[HAL(lr=LEARNING_RATE, seed=run.seed)]),
    "ER": lambda run: _replay(),
    "MIR": lambda run: _replay(retrieval=_mir()),
    "ER + GMED": lambda run: _replay(edit=BeforeUpdate(_gmed(run))),
    "MIR + GMED": lambda run: _mir_gmed(run),
    "ER + random edit": lambda run: _random(run, run.stride),
    "ER + hindsight edit": lambda run: _replay(edit=BeforeUpdate(_gmed(run), direction="memory")),
}
"""Rows of the published tables."""

TUNED = "ER + random edit"

VARIANTS: dict[str, Compose] = {
    "ER, mean of both losses": lambda run: _replay(weighting=Mean()),
    "ER + GMED, edit of others": lambda run: _replay(edit=BeforeUpdate(_gmed(run), "others")),
    "ER + GMED after the update": lambda run: _replay(edit=_gmed(run), gradients_over="all"),
    "MIR + GMED, edit of the retrieved": lambda run: _replay(retrieval=_mir(), edit=BeforeUpdate(_gmed(run))),
    "ER + hindsight edit along the same samples": lambda run: _replay(
        edit=BeforeUpdate(_gmed(run, lookahead="memory"))
    ),
    "GEM without its margin": lambda run: _gem(run, margin=0.0),
    "GEM, margin 1": lambda run: _gem(run, margin=1.0),
    "GEM, ten times the memory": lambda run: _gem(run, margin=0.5, times=10),
    "ER + random edit, stride 0.5": lambda run: _random(run, 0.5),
    "iid offline, 20 passes": lambda run: {},
    "iid online, one draw of images and order": lambda run: {},
    "HAL with a reservoir": lambda run: _replay(loss_terms=[HAL(lr=LEARNING_RATE, seed=run.seed)]),
    "GSS-Greedy, compared with 3": lambda run: _replay(memory=GSSGreedy(MEMORY, compared=3)),
    "GSS-Greedy, compared with 100": lambda run: _replay(memory=GSSGreedy(MEMORY, compared=100)),
    "GSS-Greedy of the released code": lambda run: _replay(memory=GSSByBatches(MEMORY)),
    **{f"GSS-Greedy of the released code, {turns}": partial(_in_turn, GSSOncePerBatch) for turns in TURNS},
    **{f"ER, {turns}": partial(_in_turn, ReservoirOncePerBatch) for turns in TURNS},
    "MIR of other tasks": lambda run: _replay(retrieval=_mir(finished_only=True)),
    "MIR of other tasks + GMED": lambda run: _mir_gmed(run, _mir(finished_only=True)),
    "MIR + GMED, stride 1": lambda run: _mir_gmed(run, stride=1.0),
    "MIR + GMED, stride 10": lambda run: _mir_gmed(run, stride=10.0),
    "MIR + GMED within 0 to 1": lambda run: _mir_gmed(run, valid=(0.0, 1.0)),
    "MIR + GMED, sign of the published code": lambda run: _mir_gmed(run, variant="code"),
    "iid online by BGD": lambda run: _bgd(run),
    "BGD, larger steps": lambda run: _bgd(run, lr=10.0, std=0.05),
    "iid online by BGD, larger steps": lambda run: _bgd(run, lr=10.0, std=0.05),
}
"""What the paper does not have: ablations, and what may explain where the table here differs from the published one."""

OWN_CLASSES = ("HAL", "HAL with a reservoir")  # anchors belong to the classes of a task, so that it has to be told them

PASSES = {"iid offline": 5, "iid offline, 20 passes": 20}  # over the images, of others than one

ONE_DRAW = ("iid online, one draw of images and order",)  # whatever the seed, which chooses the first weights alone

GROWING = ("ER", "MIR", "ER + GMED", "MIR + GMED")  # also with outputs that come with their task
