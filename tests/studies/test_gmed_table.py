"""The study's compositions and bookkeeping, on random images."""

from pathlib import Path

import pytest
import torch

from pcl import MIR, BeforeUpdate, GMEDEdit
from pcl.data.images import ImageData
from studies import gmed_table as study
from studies.gmed_table import Run
from studies.runs import key_of


@pytest.fixture(scope="module")
def data() -> ImageData:
    """A hundred images of every digit, each digit around a picture of its own."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(1000) % 10
    centres = torch.randint(200, (10, 1, 28, 28), generator=draws)
    x = (centres[y] + torch.randint(50, (1000, 1, 28, 28), generator=draws)).to(torch.uint8)
    return ImageData(x, y, x[:300], y[:300], tuple("0123456789"))


def test_the_tasks_are_pairs_of_digits_with_a_thousand_images_at_most(data: ImageData) -> None:
    tasks = study.split_mnist(data, 3)
    assert [sorted(task.y.unique().tolist()) for task in tasks] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert sum(len(task.y_test) for task in tasks) == 300
    many = ImageData(data.x_train.repeat(8, 1, 1, 1), data.y_train.repeat(8), data.x_test, data.y_test, data.classes)
    one, same, other = (study.split_mnist(many, seed) for seed in (3, 3, 4))
    assert {len(task.y) for task in one} == {1000}
    assert all(torch.equal(a.x, b.x) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a.x, b.x) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("method", [*study.METHODS, *study.OTHERS])
def test_every_method_trains_on_its_stream(method: str, data: ImageData) -> None:
    trainer = study.train(Run("split", method, 0, stride=0.1 if method == study.TUNED else None), data)
    assert trainer.step_count == (100 if method != "iid offline" else 5 * 100)  # 200 images a task
    assert len(trainer.model.heads) == 1
    rehearses = trainer.memory is not None
    assert rehearses == (not method.startswith(("fine", "iid")))
    if rehearses:
        assert trainer.memory is not None
        assert len(trainer.memory) == 500
        assert (trainer.memory.mean_drift() > 0) == (trainer.edit is not None)
    accuracy = sum(trainer.evaluate().values()) / len(trainer.streams)
    assert (accuracy > 0.9) == (method not in ("fine-tuning", "A-GEM", "GEM without its margin"))


def test_gmed_has_the_published_settings() -> None:
    made = study.METHODS["MIR + GMED"](Run("split", "MIR + GMED", 0))
    edit, retrieval = made["edit"], made["retrieval"]
    assert isinstance(edit, BeforeUpdate)
    assert isinstance(edit.edit, GMEDEdit)
    assert edit.samples == "others"
    assert isinstance(retrieval, MIR)
    assert (retrieval.candidates, retrieval.lr, made["memory_batch"], made["memory"].capacity) == (50, 0.05, 10, 500)


def test_outputs_may_come_with_their_task(data: ImageData) -> None:
    trainer = study.train(Run("split", "ER", 0, head="growing"), data)
    assert [head.weight.shape[0] for head in trainer.model.heads] == [2] * 5


def test_accuracy_is_over_all_test_images(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_data", lambda root, held_out: data)
    found = study.measure(Run("split", "ER", 1), "nowhere")
    model = study.train(Run("split", "ER", 1), data).model.eval()
    with torch.no_grad():
        right = model.predict(data.x_test.float() / 255, "0 or 1") == data.y_test
    assert found["accuracy"] == pytest.approx(100 * right.float().mean().item())


def test_the_stride_of_random_edits_is_the_best_on_held_out_images() -> None:
    done = {
        key_of(run): {"accuracy": 50 + (run.stride == 0.5) + 0.1 * (run.seed % 2)} for run in study.tuning_runs("split")
    }
    assert study.best_stride("split", done) == 0.5
    assert all(run.held_out for run in study.tuning_runs("split"))
    assert not any(run.held_out for run in study.table_runs("split", 2, 0.5))


def test_the_report_compares_in_pairs(tmp_path: Path) -> None:
    runs = study.table_runs("split", 3, 0.5)
    names = [*study.METHODS, *study.OTHERS]
    done = {key_of(run): {"accuracy": 50.0 + names.index(run.method) + run.seed} for run in runs}
    text = study.report(runs, done, "split", 0.5)
    assert f"| ER | {51.0 + names.index('ER'):.2f} ± 1.0 | 80.96 ± 2.3 |" in text
    assert f"| MIR | ER | {names.index('MIR') - names.index('ER'):+.2f} | 0 |" in text
    study.draw(runs, done, "split", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000
