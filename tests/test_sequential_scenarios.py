"""Images read pixel by pixel: the named scenarios with a Longhorn backbone."""

import copy
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pcl import Trainer, cli
from pcl.config import RunConfig
from pcl.data.images import ImageData, load_digits
from pcl.run import build, resume, start


def small_digits() -> ImageData:
    """4 x 4 pixels, 16 steps."""
    data = load_digits()
    x_train, x_test = (F.avg_pool2d(x.float(), 2).to(torch.uint8) for x in (data.x_train, data.x_test))
    return ImageData(x_train, data.y_train, x_test, data.y_test, data.classes)


def trainer(**settings: Any) -> Trainer:
    given: dict[str, Any] = {"epochs": 1, "batch_size": 48, "evaluate_every": 1000}
    return build(RunConfig(scenario="ps-sequential-digits", **{**given, **settings}), small_digits())[1]


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize(
    ("method", "setting"),
    [("mean", "class"), ("gem", "task"), ("graddrop", "class"), ("famo+random", "task"), ("emgd-gmc+gmed", "class")],
)
def test_methods_of_every_kind_run_and_resume_to_the_bit(method: str, setting: Literal["task", "class"]) -> None:
    whole, first, second = (trainer(method=method, setting=setting) for _ in range(3))
    whole.fit()
    first.fit(steps=11)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit()
    assert second.results() == whole.results()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_stored_digits_are_edited_through_the_recurrence() -> None:
    """Gradient-guided editing needs second derivatives of the scan."""
    t = trainer(method="emgd-gmc+me", memory_per_class=1, timeline="serial", edit_alpha=0.01)
    while t.memory is not None and not len(t.memory):
        t.step()
    result = t.step()
    assert result is not None
    assert result.edited is not None
    assert float(result.edited) > 0


def test_a_longhorn_backbone_learns_the_digits() -> None:
    t = trainer(method="mean", epochs=3, batch_size=16)
    t.fit()
    assert t.results()["A"] > 0.7  # chance is at most 0.5


def test_sequential_mnist_reads_the_file_of_mnist(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {"train": 200, "test": 50}
    x = {f"x_{part}": rng.integers(0, 256, (n, 5, 5), dtype=np.uint8) for part, n in parts.items()}
    y = {f"y_{part}": np.arange(n) % 10 for part, n in parts.items()}
    np.savez(tmp_path / "mnist.npz", **x, **y)
    config = RunConfig(scenario="ps-sequential-mnist", method="mean", data_root=str(tmp_path), batch_size=16)
    results = start(config, tmp_path / "r")
    assert resume(tmp_path / "r") == results


def test_from_the_command_line_to_a_report(tmp_path: Path) -> None:
    arguments = [
        "--scenario",
        "ps-sequential-digits",
        "--method",
        "mean",
        "--epochs",
        "1",
        "--batch-size",
        "48",
        "--evaluate-every",
        "20",
    ]
    cli.main(["train", *arguments, "--runs", str(tmp_path), "--name", "r"])
    assert "ps-sequential-digits" in (tmp_path / "r" / "report.html").read_text()
