"""A uniform sample of all that went by, of running tasks too."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcl import ReservoirMemory, load_checkpoint, save_checkpoint
from pcl.memory.base import distinct
from pcl.randomness import generator


def numbers(start: int, end: int) -> tuple[Tensor, Tensor]:
    """Samples whose x is their number, their label its remainder by 3."""
    x = torch.arange(float(start), float(end))[:, None]
    return x, x[:, 0].long() % 3


def fill(memory: ReservoirMemory, count: int, batch: int = 7, seed: int = 0, tasks: int = 1) -> None:
    draws = generator(seed, "fill")
    for i, start in enumerate(range(0, count, batch)):
        memory.observe(f"task {i % tasks}", *numbers(start, min(count, start + batch)), [0, 1, 2], draws)


@pytest.mark.parametrize("batch", [1, 4, 13, 100])
def test_every_sample_is_equally_likely_to_stay(batch: int) -> None:
    counts, together = torch.zeros(20), torch.zeros(20, 20)
    for seed in range(2000):
        memory = ReservoirMemory(5)
        fill(memory, 20, batch, seed)
        stored = memory.x[:, 0].long()
        assert len(stored.unique()) == 5
        counts[stored] += 1
        together[stored[:, None], stored] += 1
    # binomial(2000, 1/4): standard deviation 19.4; pairs: binomial(2000, 5*4 / (20*19)), 10.0
    assert (counts - 500).abs().max() < 5 * 19.4
    pairs = together[~torch.eye(20, dtype=torch.bool)]
    assert (pairs - 2000 / 19).abs().max() < 5 * 10.0


def test_the_second_of_two_samples_replaces_the_first_half_of_the_time() -> None:
    """The trap: a reservoir whose first full draw is off by one."""
    stayed = 0
    for seed in range(400):
        memory = ReservoirMemory(1)
        fill(memory, 2, 2, seed)
        stayed += int(memory.x[0, 0] == 0)
    assert abs(stayed - 200) < 5 * 10  # binomial(400, 1/2): standard deviation 10


def test_a_batch_counts_as_its_samples_one_by_one() -> None:
    """Several samples of a batch may draw one place; the last of them stays, with its own label and task."""
    for seed in range(30):
        together, singly = ReservoirMemory(4), ReservoirMemory(4)
        fill(together, 60, 20, seed, tasks=2)
        draws = generator(seed, "fill")
        for i in range(60):
            singly.observe(f"task {i // 20 % 2}", *numbers(i, i + 1), [0, 1, 2], draws)
        for name in ("x", "y", "task", "original"):
            assert torch.equal(getattr(together, name), getattr(singly, name))


def test_labels_and_tasks_stay_with_their_samples() -> None:
    memory = ReservoirMemory(9)
    fill(memory, 200, 10, tasks=3)
    assert torch.equal(memory.x[:, 0].long() % 3, memory.y)
    assert torch.equal(memory.x[:, 0].long() // 10 % 3, memory.task)
    assert memory.names == ("task 0", "task 1", "task 2")


def test_what_went_by_can_come_back_at_once() -> None:
    memory = ReservoirMemory(10)
    assert len(memory) == 0
    fill(memory, 3)
    assert len(memory) == 3
    assert sorted(memory.sample(8, generator(0)).x[:, 0].tolist()) == [0, 1, 2]
    memory.commit("task 0")
    assert len(memory) == 3


def test_edits_end_with_their_sample() -> None:
    memory = ReservoirMemory(4)
    fill(memory, 4)
    batch = memory.sample(2, generator(0))
    memory.replace(batch.index, batch.x + 0.5)
    assert memory.mean_drift() == pytest.approx(0.25)
    fill(memory, 400, seed=1)  # by now every place has been taken anew
    assert memory.mean_drift() == 0
    assert torch.equal(memory.x, memory.x.round())


def test_originals_need_not_be_kept() -> None:
    memory = ReservoirMemory(4, keep_original=False)
    fill(memory, 9)
    assert len(memory.original) == 0
    with pytest.raises(RuntimeError, match="keep_original"):
        memory.drift()


@pytest.mark.parametrize("stop", [0, 14, 28, 63])
def test_state_goes_round(stop: int, tmp_path: Path) -> None:
    """The trap: a reservoir that forgets how many samples it has seen is biased afterwards."""
    whole, first, second = (ReservoirMemory(20) for _ in range(3))
    fill(whole, stop, tasks=2)
    fill(first, stop, tasks=2)
    save_checkpoint(tmp_path / "c", first.state_dict())
    second.load_state_dict(load_checkpoint(tmp_path / "c"))
    for memory in (whole, second):
        draws = generator(5)
        for start in range(stop, 120, 10):
            memory.observe("later", *numbers(start, start + 10), [0, 1, 2], draws)
    for name in ("x", "y", "task", "original"):
        assert torch.equal(getattr(whole, name), getattr(second, name))
    assert (whole.seen, whole.names) == (second.seen, second.names)
    one, two = (memory.sample_each(9, generator(6)) for memory in (whole, second))
    assert torch.equal(one.index, two.index)


def test_a_state_holds_no_empty_room(tmp_path: Path) -> None:
    memory = ReservoirMemory(1_000_000)
    fill(memory, 10)
    save_checkpoint(tmp_path / "c", memory.state_dict())
    assert (tmp_path / "c").stat().st_size < 10_000


def test_another_size_is_refused() -> None:
    memory = ReservoirMemory(3)
    fill(memory, 5)
    with pytest.raises(ValueError, match="capacity=3, this memory 4"):
        ReservoirMemory(4).load_state_dict(memory.state_dict())
    with pytest.raises(ValueError, match="capacity"):
        ReservoirMemory(0)


def test_every_stored_task_has_its_share_of_a_draw() -> None:
    memory = ReservoirMemory(30)
    fill(memory, 300, 10, tasks=3)
    memory.names = (*memory.names[:2], "gone", *memory.names[2:])  # as after all samples of a task have been replaced
    memory.task[memory.task == 2] = 3
    memory._owner.copy_(memory.task)
    counts = torch.bincount(memory.task, minlength=4).tolist()
    batch = memory.sample_each(7, generator(0))
    assert batch.names == ("task 0", "task 1", "task 2")
    assert batch.sizes == (3, 2, 2)
    assert batch.task.tolist() == [0, 0, 0, 1, 1, 2, 2]
    for i, (_, x, _) in enumerate(batch.blocks()):
        assert (x[:, 0].long() // 10 % 3 == i).all()
    everything = memory.sample_each(1000, generator(0))
    assert everything.sizes == (counts[0], counts[1], counts[3])
    assert len(everything.index.unique()) == 30


@pytest.mark.parametrize("n", [5, 3000])
def test_distinct_numbers_are_uniform_in_every_place(n: int) -> None:
    """Of few and of many; the latter takes the way that never looks at all of them."""
    draws, trials, count = generator(1), 6000, 4
    rows = torch.stack([distinct(count, n, draws) for _ in range(trials)])
    assert all(len(set(row)) == count for row in rows.tolist())
    tenths = (rows * 5 // n).long()
    expected, deviation = trials / 5, (trials * 0.2 * 0.8) ** 0.5
    for place in range(count):
        assert (torch.bincount(tenths[:, place], minlength=5) - expected).abs().max() < 5 * deviation


def test_distinct_numbers_when_draws_collide() -> None:
    """Every sequence of two numbers out of three, drawn by rejection, is as likely as every other."""
    counts = torch.zeros(3, 3)
    draws = generator(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pcl.memory.base._permuted", lambda count, n: False)
        for _ in range(6000):
            first, second = distinct(2, 3, draws).tolist()
            counts[first, second] += 1
    assert counts.diagonal().sum() == 0
    off = counts[~torch.eye(3, dtype=torch.bool)]
    assert (off - 1000).abs().max() < 5 * (6000 / 6 * 5 / 6) ** 0.5


def test_fewer_than_wanted_all_come_back() -> None:
    assert sorted(distinct(9, 4, generator(0)).tolist()) == [0, 1, 2, 3]
