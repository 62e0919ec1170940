"""Hindsight anchors: how they are found, and what they add to a step, beside plain implementations of both."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from training_cases import blobs, everything, same, trainer

from pcl import HAL, ContinualModel, LwF, ReservoirMemory, Stream, Sum, Trainer, load_checkpoint, save_checkpoint
from pcl.randomness import generator

RATE = 0.1


def hal(**arguments: Any) -> HAL:
    return HAL(**{"strength": 0.5, "lr": RATE, "steps": 5, "batch": 4, "seed": 3, **arguments})


def two_tasks(term: HAL | LwF | None, setting: str, **arguments: Any) -> Trainer:
    t = trainer(
        weighting=Sum(), loss_terms=[term] if term else [], setting=setting, memory=ReservoirMemory(12), memory_batch=4,
        optimizer=lambda p: torch.optim.SGD(p, lr=RATE), **arguments,
    )  # fmt: skip
    t.model.double()
    for task, classes, start in (("a", [0, 1], 0), ("b", [2, 3, 4], 6)):
        x, y = blobs(classes, 40)
        t.add(Stream(task, list(zip(x.double().split(4), y.split(4), strict=True)), classes, start=start))
    return t


def distance(model: ContinualModel, before: list[Tensor], anchors: Tensor, owners: list[str]) -> Tensor:
    """mean_e |z_e - z'_e|^2 / C_e, z' fixed."""
    return torch.stack(
        [F.mse_loss(model(e[None], task)[0], z) for e, task, z in zip(anchors, owners, before, strict=True)]
    )


@pytest.mark.parametrize("setting", ["task", "class"])
def test_a_step_is_turned_back_where_it_would_change_anchors(setting: str) -> None:
    """theta - RATE (g + slope of the distance to what theta - lr g says)."""
    term = hal()
    t = two_tasks(term, setting)
    while "a" not in t.ended_at:
        t.step()
    assert len(term.anchors) == 2
    for _ in range(3):
        plain = two_tasks(None, setting)
        state = {**everything(t), "loss terms": [], "composition": plain.state_dict()["composition"]}
        plain.load_state_dict(state)
        start = copy.deepcopy(t.model)
        t.step()
        plain.step()
        owners = ["a"] * 2 + ["b"] * (len(term.anchors) - 2)
        expected = copy.deepcopy(start)
        with torch.no_grad():
            then = [plain.model(e[None], task)[0] for e, task in zip(term.anchors, owners, strict=True)]
        parameters = list(expected.parameters())
        slopes = torch.autograd.grad(
            0.5 * distance(expected, then, term.anchors, owners).mean(), parameters, allow_unused=True
        )
        turned = False
        for mine, p, slope in zip(t.model.parameters(), plain.model.parameters(), slopes, strict=True):
            step = p if slope is None else p - RATE * slope
            turned |= slope is not None and bool((slope.abs() > 1e-6).any())
            assert torch.allclose(mine, step, rtol=1e-9, atol=1e-12)
        assert turned


@pytest.mark.parametrize("setting", ["task", "class"])
def test_anchors_climb_to_where_most_is_forgotten(setting: str) -> None:
    term = hal()
    t = two_tasks(term, setting)
    t.fit(6)
    while "a" not in t.ended_at:
        before = copy.deepcopy(t)
        mean = before.loss_terms.state_dict()[0]["features"]["a"]
        t.step()
    model, memory, draws = before.model.eval(), before.memory, generator(3, "hindsight anchors")
    assert memory is not None
    later = copy.deepcopy(model)
    rows = [i for i in range(len(memory)) if memory.names[int(memory.task[i])] != "a"]
    order = [rows[i] for i in torch.randperm(len(rows), generator=draws).tolist()]
    for first in range(0, len(order), 4):
        some = order[first : first + 4]
        owners = [memory.names[int(memory.task[i])] for i in some]
        losses = [
            later.losses(memory.x[i][None], memory.y[i][None], task) for i, task in zip(some, owners, strict=True)
        ]
        parameters = list(later.parameters())
        slopes = torch.autograd.grad(torch.stack(losses).mean(), parameters, allow_unused=True)
        with torch.no_grad():
            for p, slope in zip(parameters, slopes, strict=True):
                p -= 0 if slope is None else RATE * slope
    assert rows  # of "b", which has trained along
    x = torch.rand(2, 6, generator=draws, dtype=torch.float64)
    for c in range(2):
        e, y = x[c], torch.tensor([c])
        for _ in range(5):
            e = e.detach().requires_grad_()
            apart = (model.backbone(e[None])[0] - mean).square().sum()
            gain = later.losses(e[None], y, "a").sum() - model.losses(e[None], y, "a").sum() - 0.1 * apart
            e = e + RATE * torch.autograd.grad(gain, e)[0]
        assert torch.allclose(term.anchors[c], e.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("setting", ["task", "class"])
def test_only_classes_that_a_task_has_shown_get_anchors(setting: str, tmp_path: Path) -> None:
    """Of the declared classes 0, 1, 2 and 3, the first and the third come."""

    def made() -> tuple[HAL, Trainer]:
        term = hal()
        t = two_tasks(term, setting)
        x, y = blobs([0, 2], 16)
        x, y = x[y.argsort()], y.sort().values  # after the checkpoint the second of them comes alone
        t.add(Stream("c", list(zip(x.double().split(4), y.split(4), strict=True)), [0, 1, 2, 3]))
        return term, t

    term, t = made()
    t.fit(3)
    save_checkpoint(tmp_path / "now", t.state_dict())
    t.fit(3)
    assert t.ended_at["c"] == 3
    assert len(term.anchors) == 2
    assert term.state_dict()["width"].tolist() == [4, 4]
    again, resumed = made()
    resumed.load_state_dict(load_checkpoint(tmp_path / "now"))
    resumed.fit(3)
    assert torch.equal(again.anchors, term.anchors)


@pytest.mark.parametrize("setting", ["task", "class"])
def test_a_resumed_run_gives_the_same_bits(setting: str, tmp_path: Path) -> None:
    whole = two_tasks(hal(), setting)
    whole.fit()
    whole.evaluate()
    for stop in (3, 8, 12):
        first, second = two_tasks(hal(), setting), two_tasks(hal(), setting)
        first.fit(stop)
        save_checkpoint(tmp_path / "c", first.state_dict())
        second.load_state_dict(load_checkpoint(tmp_path / "c"))
        second.fit()
        assert same(everything(whole), everything(second))


def test_a_step_that_raises_changes_nothing() -> None:
    t = two_tasks(hal(), "task")
    t.fit(12)
    before = everything(t)
    hook = t.model.backbone.register_forward_hook(lambda module, given, out: out * torch.inf)
    with pytest.raises(FloatingPointError):
        t.step()
    hook.remove()
    assert same(before, everything(t))


def test_measuring_the_descent_changes_nothing() -> None:
    """The features of a task are those that its steps have seen, not those after their updates."""
    plain, measured = two_tasks(hal(), "class"), two_tasks(hal(), "class", measure_descent=1)
    for t in (plain, measured):
        t.fit()
    assert same(everything(plain), everything(measured))


def test_nothing_is_anchored_before_a_task_has_ended() -> None:
    nothing = LwF(1.0)  # has no teacher before a task has ended, and adds nothing
    one, two = two_tasks(hal(), "class"), two_tasks(nothing, "class")
    for t in (one, two):
        t.fit(9)
    assert all(map(torch.equal, one.model.parameters(), two.model.parameters()))


@pytest.mark.parametrize(
    "wrong", [{"strength": 0.0}, {"gamma": 0.0}, {"decay": 1.0}, {"lr": -1.0}, {"steps": 0}, {"batch": 0}], ids=str
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="HAL: expected"):
        HAL(**wrong)
