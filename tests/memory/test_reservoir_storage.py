"""A memory whose samples lie in a file, or elsewhere than the rest."""

from pathlib import Path

import pytest
import torch

from pcl import MLP, ContinualModel, GradientEdit, ReservoirMemory, Stream, Trainer, load_checkpoint, save_checkpoint
from pcl.config import RunConfig
from pcl.memory.on_disk import on_disk
from pcl.randomness import generator
from pcl.run import build


def in_a_file(tensor: torch.Tensor) -> bool:
    """Whether the kernel has a file behind these bytes."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= address < last:
            return "memory-" in line and line.endswith("(deleted)")
    return False


def fill(memory: ReservoirMemory, count: int, draws: torch.Generator) -> None:
    for start in range(0, count, 9):
        x = torch.arange(float(start), float(min(count, start + 9)))[:, None].expand(-1, 6).contiguous()
        memory.observe(f"task {start % 2}", x, x[:, 0].long() % 3, [0, 1, 2], draws)


@pytest.mark.parametrize("capacity", [20, 200])
def test_a_memory_on_disk_does_what_one_in_memory_does(capacity: int, tmp_path: Path) -> None:
    plain, filed = ReservoirMemory(capacity), ReservoirMemory(capacity, storage=tmp_path / "here")
    for memory in (plain, filed):
        draws = generator(3)
        fill(memory, 120, draws)
        batch = memory.sample(7, draws)
        memory.replace(batch.index, batch.x + 0.25)
        fill(memory, 30, draws)
    assert in_a_file(filed.x)
    assert in_a_file(filed.original)
    assert not in_a_file(plain.x)
    for name in ("x", "y", "task", "original"):
        assert torch.equal(getattr(plain, name), getattr(filed, name))
    one, two = (memory.sample_each(8, generator(4)) for memory in (plain, filed))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.task, two.task)
    assert plain.mean_drift() == filed.mean_drift() > 0


def test_a_folder_that_cannot_be_made_is_refused_before_the_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    torch.manual_seed(0)
    t = Trainer(
        ContinualModel(MLP(6, [8]), 8), optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        memory=ReservoirMemory(5, storage=tmp_path / "file" / "below"),
    )  # fmt: skip
    t.add(Stream("a", [(torch.rand(4, 6), torch.tensor([0, 1, 0, 1]))] * 3, [0, 1]))
    before = [p.clone() for p in t.model.parameters()]
    with pytest.raises(OSError, match="file"):
        t.step()
    assert t.model.tasks == ()
    assert all(map(torch.equal, before, t.model.parameters()))


@pytest.mark.parametrize("seen", [0, 12, 90])
def test_checkpoints_hold_the_samples_and_no_path(seen: int, tmp_path: Path) -> None:
    """From a file into memory and back; and the file that the samples came from is gone."""
    whole, filed = ReservoirMemory(40), ReservoirMemory(40, storage=tmp_path / "one")
    for memory in (whole, filed):
        fill(memory, seen, generator(1))
    save_checkpoint(tmp_path / "c", filed.state_dict())
    for again in (ReservoirMemory(40, storage=tmp_path / "two"), ReservoirMemory(40)):
        again.load_state_dict(load_checkpoint(tmp_path / "c"))
        if seen:
            assert in_a_file(again.x) == (again.storage is not None)
        draws = [generator(2), generator(2)]
        fill(again, 60, draws[0])
        reference = ReservoirMemory(40)
        reference.load_state_dict(whole.state_dict())
        fill(reference, 60, draws[1])
        assert torch.equal(again.x, reference.x)
        assert again.seen == reference.seen


def test_files_have_no_name_and_end_with_their_memory(tmp_path: Path) -> None:
    memory = ReservoirMemory(1000, storage=tmp_path)
    fill(memory, 9, generator(0))
    assert list(tmp_path.iterdir()) == []
    address = memory.x
    assert in_a_file(address)
    del memory, address
    assert not any(str(tmp_path) in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_disk_without_room_is_noticed_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large"):
        on_disk(tmp_path, (2**58,), torch.float32)  # more than any file may have: refused before anything is taken
    assert list(tmp_path.iterdir()) == []


def test_samples_come_back_to_the_device_of_the_labels() -> None:
    """As with a model on a GPU and samples on the CPU; a device that only knows shapes stands in for the GPU."""
    memory = ReservoirMemory(10, storage=torch.device("cpu"))
    memory._make_room(torch.rand(4, 3, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta"))
    memory.seen, memory.names = 4, ("a",)
    memory._owner.zero_()
    memory._show()
    assert memory.x.device.type == "cpu"
    for batch in (memory.sample(3, generator(0)), memory.sample_each(3, generator(0))):
        assert {getattr(batch, name).device.type for name in ("x", "y", "task", "index")} == {"meta"}


@pytest.mark.gpu
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_a_memory_of_a_gpu_may_lie_elsewhere(where: str, tmp_path: Path) -> None:
    plain = ReservoirMemory(20)
    apart = ReservoirMemory(20, storage=torch.device("cpu") if where == "cpu" else tmp_path)
    for memory in (plain, apart):
        draws = generator(3)
        for start in range(0, 60, 6):
            x = torch.arange(start, start + 6.0, device="cuda")[:, None].expand(-1, 5)
            memory.observe("a", x, x[:, 0].long() % 3, [0, 1, 2], draws)
        batch = memory.sample(4, draws)
        assert batch.x.is_cuda
        memory.replace(batch.index, batch.x + 0.5)
        again = memory.take(batch.take(torch.tensor([2, 0], device="cuda")).index)
        assert torch.equal(again.x, batch.x[[2, 0]] + 0.5)
    assert apart.x.device.type == "cpu"
    assert torch.equal(plain.x.cpu(), apart.x)
    assert torch.equal(plain.y, apart.y)
    assert plain.mean_drift() == pytest.approx(apart.mean_drift())


def test_training_with_a_memory_on_disk_gives_the_same_bits(tmp_path: Path) -> None:
    found = []
    for storage in (None, tmp_path):
        torch.manual_seed(0)
        trainer = Trainer(
            ContinualModel(MLP(6, [8]), 8, "class"), optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            memory=ReservoirMemory(15, storage=storage), memory_batch=5, edit=GradientEdit(0.1),
        )  # fmt: skip
        draws = generator(0)
        batches = [(torch.rand(6, 6, generator=draws), torch.arange(6) % 3) for _ in range(8)]
        trainer.add(Stream("a", batches, [0, 1, 2], test=batches[0]))
        trainer.fit()
        assert trainer.memory is not None
        found.append([*trainer.model.state_dict().values(), trainer.memory.x.clone()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_run_keeps_its_samples_where_it_is_told(tmp_path: Path) -> None:
    settings = {"scenario": "split-digits", "memory": "reservoir", "method": "sum", "memory_storage": str(tmp_path)}
    _, trainer = build(RunConfig(**settings))  # type: ignore[arg-type]
    trainer.fit(1)
    assert trainer.memory is not None
    assert in_a_file(trainer.memory.x)
    _, trainer = build(RunConfig(**settings | {"memory_storage": "cpu"}))  # type: ignore[arg-type]
    assert trainer.memory.storage == torch.device("cpu")  # type: ignore[union-attr]
    (tmp_path / "file").touch()
    with pytest.raises(
        PermissionError, match=r"memory_storage: cannot keep samples in .*file is not a writable folder"
    ):
        build(RunConfig(**settings | {"memory_storage": str(tmp_path / "file" / "below")}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory_storage: expected beside memory"):
        build(RunConfig(**settings | {"memory": "class"}))  # type: ignore[arg-type]
