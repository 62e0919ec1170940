"""Loss terms against forgetting: one task after the other on handwritten digits, with and without them, by seed."""

import statistics
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pcl import (
    DER,
    EMGD,
    EWC,
    MAS,
    MLP,
    SI,
    BalancedReservoir,
    Batches,
    ClassMemory,
    ContinualModel,
    GSSGreedy,
    LossTerm,
    LwF,
    OnlineEWC,
    ReservoirMemory,
    Stream,
    Sum,
    Trainer,
)
from pcl.data.images import load_digits

SEEDS = range(8)
LEAST_T = 3.5  # of a paired t-test with 7 degrees of freedom: one-sided p = 0.005

TERMS: dict[str, Callable[[int], LossTerm]] = {
    "ewc": lambda seed: EWC(100.0, seed=seed),
    "online ewc": lambda seed: OnlineEWC(100.0, seed=seed),
    "si": lambda seed: SI(10.0),
    "mas": lambda seed: MAS(0.1, seed=seed),
    "lwf": lambda seed: LwF(3.0),
}


@cache
def digits(classes: tuple[int, ...], train: bool) -> tuple[Tensor, Tensor]:
    data = load_digits()
    x, y = (data.x_train, data.y_train) if train else (data.x_test, data.y_test)
    rows = torch.isin(y, torch.tensor(classes))
    return x[rows].float().flatten(1) / x.max(), y[rows].long()


@cache
def lost(seed: int, name: str | None, rehearsal: bool) -> float:
    """Accuracy on the first five classes when they have been learned, minus that after the other five."""
    arguments: dict[str, Any] = {"weighting": EMGD("gmc"), "memory": ClassMemory(1)} if rehearsal else {}
    terms = [TERMS[name](seed)] if name else []
    return loss_of_accuracy(seed, "class" if rehearsal else "task", loss_terms=terms, **arguments)


def loss_of_accuracy(seed: int, setting: Any, passes: int = 1, **arguments: Any) -> float:
    torch.manual_seed(seed)
    t = Trainer(
        ContinualModel(MLP(64, [32, 16]), 16, setting, seed=seed),
        optimizer=lambda p: torch.optim.Adam(p, lr=6e-3), memory_batch=16, **arguments,
    )  # fmt: skip
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed)).tolist()
    start = 0
    for task, classes in (("a", tuple(order[:5])), ("b", tuple(order[5:]))):
        x, y = digits(classes, True)
        batches = Batches(x.repeat(passes, 1), y.repeat(passes), 32, name=task, seed=seed)
        epochs = 3 if passes == 1 else 1
        t.add(Stream(task, batches, classes, start=start, epochs=epochs, test=digits(classes, False)))
        start += epochs * len(batches)
    t.fit()
    return t.at_end["a"] - t.results()["final"]["a"]


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize(
    ("name", "rehearsal"), [*((name, False) for name in TERMS), ("ewc", True), ("si", True), ("lwf", True)]
)
def test_less_is_forgotten(name: str, rehearsal: bool) -> None:
    """Than by fine-tuning in the task setting; and than by EMGD in the class setting with one stored sample a class."""
    gains = [lost(seed, None, rehearsal) - lost(seed, name, rehearsal) for seed in SEEDS]
    t = statistics.mean(gains) / (statistics.stdev(gains) / len(gains) ** 0.5)
    assert t > LEAST_T


REPLAY: dict[str, Callable[[], dict[str, Any]]] = {
    "none": dict,
    "der": lambda: {"memory": ReservoirMemory(50, logits=True), "loss_terms": [DER(2.0)]},
    "der++": lambda: {"memory": ReservoirMemory(50, logits=True), "loss_terms": [DER(0.25, 0.5)]},
    "balanced": lambda: {"memory": BalancedReservoir(50)},
    "gss": lambda: {"memory": GSSGreedy(50)},
}


@cache
def lost_with(seed: int, name: str) -> float:
    """As :func:`lost`, in the class setting, with the sum of all losses and 50 stored samples.

    Where logits are stored, three passes are one epoch: of samples that are stored late the model has something to say.
    """
    return loss_of_accuracy(seed, "class", 3 if name in ("der", "der++") else 1, weighting=Sum(), **REPLAY[name]())


@pytest.mark.parametrize(("name", "least"), [("der", 0.15), ("der++", 0.3), ("balanced", 0.3), ("gss", 0.3)])
def test_replay_keeps_what_fine_tuning_forgets(name: str, least: float) -> None:
    """By how much less accuracy is lost, over seeds on which no strength was chosen."""
    seeds = (20,) if name == "gss" else (20, 21, 22)
    gains = [lost_with(seed, "none") - lost_with(seed, name) for seed in seeds]
    assert statistics.mean(gains) > least
