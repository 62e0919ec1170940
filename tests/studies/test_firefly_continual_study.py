"""The study of ten tasks of CIFAR-100, in miniature."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pcl.data.images import ImageData
from pcl.models.growth.growing import GrowingModel
from studies import firefly_continual as study
from studies.continual_report import draw, report
from studies.firefly_continual import Run, Setting
from studies.runs import key_of
from studies.split_cifar import BACKBONES, TASKS, cut, size, thin

SMALL = Setting(first=3, growths=(2,), fixed=(3,), alone=(2,), new=2)


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Twenty classes, two a task, each around a colour of its own."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(200) % 20
    colours = torch.randint(200, (20, 3, 1, 1), generator=draws)
    x = (colours[y] + torch.randint(50, (200, 3, 32, 32), generator=draws)).to(torch.uint8)
    return ImageData(x, y, x[:60], y[:60], tuple(map(str, range(20))))


def test_tasks_share_no_class_and_are_drawn_by_the_seed(data: ImageData) -> None:
    tasks = cut(data, 3, 4)
    assert sorted(c for task in tasks for c in task.classes) == list(range(20))
    assert {(len(task.y), len(task.y_test)) for task in tasks} == {(8, 6)}
    for task in tasks:
        assert set(task.y.tolist()) == set(task.y_test.tolist()) == set(task.classes)
    assert [task.classes for task in cut(data, 3, 4)] == [task.classes for task in tasks]
    assert [task.classes for task in cut(data, 4, 4)] != [task.classes for task in tasks]


def test_backbones_have_features_of_their_width() -> None:
    for make in BACKBONES.values():
        assert make(5).eval()(torch.rand(2, 3, 32, 32)).shape == (2, 5)
    assert size([thin(8)]) == 3 * 8 * 9 + 8 + 3 * (8 * 8 * 9 + 8)


def small_run(method: str, width: int, **more: float) -> Run:
    return Run(method, width, 0, "thin", 4, 3, new=2, **more)  # type: ignore[arg-type]


def test_firefly_grows_with_every_task_and_keeps_every_bit(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "BATCH", 4)
    monkeypatch.setattr(study, "CANDIDATE_STEPS", 2)
    tasks = cut(data, 0, 4)[:3]
    trainer, remember = study.train(small_run("Firefly", 3, growth=2), tasks, "cpu")
    assert isinstance(trainer.model, GrowingModel)
    assert trainer.step_count == 3 * (2 * 3 - 2)  # the steps of the candidates are taken off
    gained = sum(trainer.model.widths.values()) - 4 * 3
    assert 0 < gained <= 3 * 2
    for task in tasks:
        assert torch.equal(remember.logits[task.name], remember.now(trainer, task.name))


def test_fine_tuning_changes_the_logits_of_finished_tasks(data: ImageData) -> None:
    tasks = cut(data, 0, 4)[:2]
    trainer, remember = study.train(small_run("fine-tuning", 3), tasks, "cpu")
    assert not torch.equal(remember.logits["task-1"], remember.now(trainer, "task-1"))
    assert torch.equal(remember.logits["task-2"], remember.now(trainer, "task-2"))


def test_sizes_are_of_all_networks_together(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_data", lambda root, held_out: data)
    alone = study.measure(small_run("one network per task", 2), "nowhere", "cpu")
    head = 2 * 2 + 2  # two classes
    assert alone["parameters"] == TASKS * (size([thin(2)]) + head)
    assert alone["kept"]
    assert alone["final"] == alone["at_end"]
    shared = study.measure(small_run("EWC", 3, strength=10.0), "nowhere", "cpu")
    assert shared["parameters"] == size([thin(3)]) + TASKS * (3 * 2 + 2)
    assert len(shared["final"]) == TASKS
    assert not shared["kept"]


def test_the_strength_of_ewc_is_the_best_on_held_out_images() -> None:
    runs = study.tuning_runs(SMALL, "thin", 4, 1)
    assert all(run.held_out and run.seed == study.TUNING_SEED for run in runs)
    runs += [replace(run, width=5) for run in runs]
    done = {key_of(run): {"accuracy": 50 - abs(run.strength - {3: 1e3, 5: 1e5}[run.width])} for run in runs}
    assert study.best_strengths(runs, done) == {3: 1e3, 5: 1e5}


def test_table_and_picture(tmp_path: Path) -> None:
    one = Run("", 0, 0, "thin", 4, 1)
    runs = study.table_runs(SMALL, {3: 1e3}, 2, one)
    assert len(runs) == 2 * 4
    sizes = {"Firefly": 900, "EWC": 500, "fine-tuning": 500, "one network per task": 2000}
    found = [
        (
            run,
            {
                "accuracy": 40.0 + run.seed,
                "at_end": [50.0 + run.seed] * 10,
                "parameters": sizes[run.method],
                "kept": run.method == "Firefly",
                "seconds": 3.0,
            },
        )
        for run in runs
    ]
    text = report(found, "Title")
    assert "| Firefly, width 3, 2 neurons a task | 900 | 40.5 ± 0.7 | 50.5 ± 0.7 | 10.00 | 2 of 2 | 2 | 3 |" in text
    assert "| EWC, width 3 | 500 | 40.5 ± 0.7 | 50.5 ± 0.7 | 10.00 | 0 of 2 | 2 | 3 |" in text
    draw(found, "Title", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
