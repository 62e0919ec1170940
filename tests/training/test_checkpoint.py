"""Checkpoint files, and runs that are interrupted."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pcl import (
    EMGD,
    MLP,
    Batches,
    ClassMemory,
    ContinualModel,
    GradientEdit,
    Stream,
    Trainer,
    load_checkpoint,
    save_checkpoint,
)
from pcl.training import checkpoint


def make(**changes: Any) -> Trainer:
    torch.manual_seed(changes.pop("weights", 0))
    model = (
        ContinualModel(
            torch.nn.Sequential(MLP(6, [changes.pop("width", 16)]), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2)), 16
        )
        if "width" not in changes
        else ContinualModel(MLP(6, [changes.pop("width")]), 16)
    )
    given: dict[str, Any] = {
        "optimizer": lambda p: torch.optim.Adam(p, lr=0.01),
        "weighting": EMGD("gmc"),
        "memory": ClassMemory(3),
        "edit": GradientEdit(0.1),
        "evaluate_every": 3,
    }
    streams = changes.pop("streams", {"a": ([0, 1], 0), "b": ([2, 3], 4), "c": ([0, 4], 9)})
    trainer = Trainer(model, **{**given, **changes})
    for task, (classes, start) in streams.items():
        draws = torch.Generator().manual_seed(len(task) + start)
        x = torch.rand(30, 6, generator=draws)
        y = torch.tensor(classes)[torch.arange(30) % 2]
        trainer.add(Stream(task, Batches(x, y, 4, name=task), classes, start=start, epochs=2, test=(x, y)))
    return trainer


@pytest.mark.parametrize("stop", [0, 1, 5, 14, 16, 22])
def test_a_resumed_run_gives_the_same_bits(tmp_path: Path, stop: int) -> None:
    whole, first, second = make(), make(), make(weights=1)  # other weights: all must come from the checkpoint
    torch.manual_seed(5)
    whole.fit()
    torch.manual_seed(5)
    first.fit(steps=stop)
    save_checkpoint(tmp_path / "c", first.state_dict())
    torch.manual_seed(77)
    second.load_state_dict(load_checkpoint(tmp_path / "c"))
    second.fit()
    assert second.history == whole.history
    assert second.ended_at == whole.ended_at
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert whole.memory is not None
    assert second.memory is not None
    assert torch.equal(whole.memory.x, second.memory.x)


def test_paused_and_ended_streams_stay_so(tmp_path: Path) -> None:
    first, second = make(), make()
    first.fit(steps=6)
    first.streams["a"].pause()
    first.streams["b"].end()
    save_checkpoint(tmp_path / "c", first.state_dict())
    second.load_state_dict(load_checkpoint(tmp_path / "c"))
    assert second.active == first.active == ()
    second.streams["a"].resume()
    assert second.active == ("a",)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"streams": {"a": ([0, 1], 0)}}, "another streams"),
        ({"streams": {"a": ([0, 5], 0), "b": ([2, 3], 4), "c": ([0, 4], 9)}}, "another streams"),
        ({"memory": None, "edit": None}, "another memory:"),
        ({"memory": ClassMemory(4)}, "another memory:"),
        ({"edit": None}, "another edit"),
        ({"width": 8}, "another backbone"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}, "another optimizer"),
        ({"weighting": None}, "another weighting"),
        ({"weighting": EMGD("gs")}, "factors"),
        ({"gradients_over": "all"}, "another gradients_over"),
        ({"clip": 1.0}, "another clip"),
        ({"memory_batch": 3}, "another memory_batch"),
    ],
)
def test_a_foreign_trainer_is_refused(other: dict[str, Any], message: str) -> None:
    first, foreign = make(), make(**other)
    first.fit(steps=6)
    before = copy.deepcopy(foreign.state_dict())
    with pytest.raises(ValueError, match=message):
        foreign.load_state_dict(first.state_dict())
    assert str(before) == str(foreign.state_dict())
    with pytest.raises(ValueError, match="expected what"):
        make().load_state_dict({"x": 1})
    with pytest.raises(ValueError, match="trained already"):
        first.load_state_dict(first.state_dict())


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"x": torch.arange(1000)})
    content = path.read_bytes()
    for damaged in (content[:-1], content[:500], content[:900] + b"?" + content[901:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            load_checkpoint(path)
    torch.save({"x": 1}, path)
    with pytest.raises(ValueError, match="not a pcl checkpoint"):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "absent")


def test_no_code_is_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    save_checkpoint(tmp_path / "c", {"x": Evil()})
    with pytest.raises(ValueError, match="not tensors or plain values"):
        load_checkpoint(tmp_path / "c")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    save_checkpoint(path, {"x": 1})

    def full(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint.os, moment, full)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, {"x": 2})
    assert load_checkpoint(path) == {"x": 1}
    assert list(tmp_path.iterdir()) == [path]


def loader(task: str, epochs_differ: bool) -> DataLoader:
    x, y = torch.rand(12, 6, generator=torch.Generator().manual_seed(len(task))), torch.arange(12) % 2
    draws = torch.Generator().manual_seed(1) if epochs_differ else None
    return DataLoader(TensorDataset(x, y), batch_size=3, shuffle=epochs_differ, generator=draws)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("stop", [2, 5, 9])
def test_data_loaders_and_another_order_of_streams(shuffle: bool, stop: int) -> None:
    """A DataLoader draws from generators whenever it is opened, and dropout from the global one."""

    def fresh(order: str) -> Trainer:
        torch.manual_seed(0)
        backbone = torch.nn.Sequential(MLP(6, [8]), torch.nn.Dropout(0.5))
        trainer = Trainer(ContinualModel(backbone, 8), optimizer=lambda p: torch.optim.Adam(p), memory=ClassMemory(2))
        for task in order.split():
            start = {"a": 0, "bb": 4, "ccc": 1}[task]
            trainer.add(Stream(task, loader(task, shuffle), [0, 1], start=start, epochs=2))
        torch.manual_seed(3)
        return trainer

    whole, first, second = fresh("a bb ccc"), fresh("a bb ccc"), fresh("ccc bb a")
    whole.fit()
    torch.manual_seed(3)
    first.fit(steps=stop)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


def test_a_loader_whose_order_cannot_be_repeated_is_refused() -> None:
    data = TensorDataset(torch.rand(12, 6), torch.arange(12) % 2)
    streams = [Stream("a", DataLoader(data, batch_size=3, shuffle=True), [0, 1]) for _ in range(2)]
    streams[0].peek()
    streams[0].advance()
    with pytest.raises(ValueError, match="shuffles without a generator"):
        streams[1].load_state_dict(streams[0].state_dict())
