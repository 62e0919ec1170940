"""What is stored and what comes back."""

import pytest
import torch

from pcl import ClassMemory
from pcl.randomness import generator


def fill(memory: ClassMemory, task: str, count: int, classes: list[int], batch: int = 7, seed: int = 0) -> None:
    """Offer ``count`` samples whose x is their number and whose class goes round."""
    draws = generator(seed, task)
    x = torch.arange(float(count))[:, None]
    y = torch.tensor(classes)[torch.arange(count) % len(classes)]
    for rows in torch.arange(count).split(batch):
        memory.observe(task, x[rows], y[rows], classes, draws)
    memory.commit(task)


def test_n_samples_per_class_and_task() -> None:
    memory = ClassMemory(3)
    fill(memory, "a", 40, [4, 2])
    fill(memory, "b", 50, [2, 7, 8])
    assert len(memory) == 6 + 9
    stored = list(zip(memory.task.tolist(), memory.y.tolist(), strict=True))
    assert all(stored.count(key) == 3 for key in [(0, 4), (0, 2), (1, 2), (1, 7), (1, 8)])


def test_labels_stay_with_their_samples() -> None:
    memory = ClassMemory(4)
    fill(memory, "a", 60, [0, 1, 2])
    assert torch.equal(memory.x[:, 0].long() % 3, memory.y)


def test_fewer_samples_than_places_are_all_kept() -> None:
    memory = ClassMemory(10)
    fill(memory, "a", 7, [0, 1])
    assert sorted(memory.x[:, 0].tolist()) == list(range(7))


@pytest.mark.parametrize("batch", [1, 4, 13, 100])
def test_every_sample_is_equally_likely_to_stay(batch: int) -> None:
    counts = torch.zeros(20)
    for seed in range(2000):
        memory = ClassMemory(5)
        fill(memory, "a", 20, [0], batch=batch, seed=seed)
        counts[memory.x[:, 0].long()] += 1
    # binomial(2000, 1/4): standard deviation 19.4
    assert (counts - 500).abs().max() < 5 * 19.4


def test_the_second_of_two_samples_replaces_the_first_half_of_the_time() -> None:
    """The trap: a reservoir whose first full draw is off by one."""
    stayed = 0
    for seed in range(400):
        memory = ClassMemory(1)
        fill(memory, "a", 2, [0], seed=seed)
        stayed += int(memory.x[0, 0] == 0)
    assert abs(stayed - 200) < 5 * 10  # binomial(400, 1/2): standard deviation 10


def test_a_batch_counts_as_its_samples_one_by_one() -> None:
    """The last of several samples for one place stays, as when they come singly with the same draws."""
    for seed in range(50):
        together, singly = ClassMemory(2), ClassMemory(2)
        x, y = torch.arange(12.0)[:, None], torch.zeros(12, dtype=torch.int64)
        together.observe("a", x, y, [0], torch.Generator().manual_seed(seed))
        draws = torch.Generator().manual_seed(seed)
        for i in range(12):
            singly.observe("a", x[i : i + 1], y[i : i + 1], [0], draws)
        for memory in (together, singly):
            memory.commit("a")
        assert torch.equal(together.x, singly.x)


def test_retrieval_is_uniform_and_without_repeats() -> None:
    memory = ClassMemory(10)
    fill(memory, "a", 100, [0, 1])
    draws = torch.Generator().manual_seed(0)
    counts = torch.zeros(20)
    for _ in range(2000):
        index = memory.sample(8, draws).index
        assert len(index.unique()) == 8
        counts[index] += 1
    assert (counts - 800).abs().max() < 5 * (2000 * 0.4 * 0.6) ** 0.5
    assert len(memory.sample(99, draws).y) == 20


def test_a_draw_says_whose_sample_it_is() -> None:
    memory = ClassMemory(2)
    fill(memory, "a", 10, [3])
    fill(memory, "b", 10, [4])
    batch = memory.sample(4, torch.Generator().manual_seed(0))
    assert [batch.names[t] for t in batch.task.tolist()] == ["a" if y == 3 else "b" for y in batch.y.tolist()]


def test_edits_stay_and_drift_is_measured() -> None:
    memory = ClassMemory(2)
    fill(memory, "a", 10, [0])
    original = memory.x.clone()
    batch = memory.sample(1, torch.Generator().manual_seed(0))
    memory.replace(batch.index, batch.x + 0.5)
    assert memory.drift().sum() == 0.5
    assert torch.equal(memory.original, original)
    with pytest.raises(RuntimeError, match="keep_original"):
        ClassMemory(2, keep_original=False).drift()


def test_a_task_without_samples_leaves_nothing() -> None:
    memory = ClassMemory(2)
    memory.commit("never seen")
    assert len(memory) == 0


def test_state_goes_round_also_in_the_middle_of_a_task() -> None:
    """The trap: a reservoir that forgets how many samples it has seen is biased afterwards."""
    classes, draws = [0, 1], torch.Generator().manual_seed(3)
    x, y = torch.arange(40.0)[:, None], torch.arange(40) % 2
    whole, first = ClassMemory(3), ClassMemory(3)
    fill(whole, "old", 10, [5])
    fill(first, "old", 10, [5])
    for memory in (whole, first):
        draws.manual_seed(3)
        memory.observe("a", x[:20], y[:20], classes, draws)
    second = ClassMemory(3)
    second.load_state_dict(first.state_dict())
    for memory in (whole, second):
        draws.manual_seed(4)
        memory.observe("a", x[20:], y[20:], classes, draws)
        memory.commit("a")
    assert torch.equal(whole.x, second.x)
    assert torch.equal(whole.y, second.y)
    with pytest.raises(ValueError, match="per_class"):
        ClassMemory(4).load_state_dict(first.state_dict())


def test_a_memory_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="per_class"):
        ClassMemory(0)
    with pytest.raises(ValueError, match="keep"):
        ClassMemory(2, keep="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_the_last_of_every_class(batch: int) -> None:
    memory = ClassMemory(4, keep="last")
    fill(memory, "a", 31, [0, 1, 2], batch=batch)
    fill(memory, "b", 3, [0, 1], batch=batch)
    stored = sorted(zip(memory.task.tolist(), memory.y.tolist(), memory.x[:, 0].tolist(), strict=True))
    late = [(0, c, float(i)) for c in range(3) for i in range(31) if i % 3 == c and i >= 31 - 12 - (c == 0)]
    late = [(t, c, i) for t, c, i in late if i > 30 - 12]
    assert stored == [*late, (1, 0, 0.0), (1, 0, 2.0), (1, 1, 1.0)]
    with pytest.raises(ValueError, match="keep"):
        ClassMemory(4).load_state_dict(memory.state_dict())


@pytest.mark.parametrize(("count", "sizes"), [(10, (4, 3, 3)), (9, (3, 3, 3)), (2, (1, 1, 1)), (100, (6, 9, 12))])
def test_every_task_has_its_share_of_a_draw(count: int, sizes: tuple[int, ...]) -> None:
    memory = ClassMemory(3)
    for task, classes in (("a", [0, 1]), ("b", [1, 2, 3]), ("c", [4, 5, 6, 7])):
        fill(memory, task, 40, classes)
    batch = memory.sample_each(count, torch.Generator().manual_seed(0))
    assert batch.sizes == sizes
    assert batch.task.tolist() == [t for t, size in enumerate(sizes) for _ in range(size)]
    assert len(batch.index.unique()) == sum(sizes)
    assert torch.equal(memory.x[batch.index], batch.x)
    assert torch.equal(memory.y[batch.index], batch.y)
    blocks = {name: (len(x), set(y.tolist())) for name, x, y in batch.blocks()}
    assert {name: size for name, (size, _) in blocks.items()} == dict(zip("abc", sizes, strict=True))
    for name, classes in (("a", {0, 1}), ("b", {1, 2, 3}), ("c", {4, 5, 6, 7})):
        assert blocks[name][1] <= classes


def test_draws_by_task_are_uniform_and_go_on_from_a_state() -> None:
    memory = ClassMemory(5)
    fill(memory, "a", 60, [0, 1])
    fill(memory, "b", 60, [2])
    draws = torch.Generator().manual_seed(0)
    counts = torch.zeros(15)
    for _ in range(2000):
        counts[memory.sample_each(6, draws).index] += 1
    for rows, share in ((slice(0, 10), 3 / 10), (slice(10, 15), 3 / 5)):
        assert (counts[rows] - 2000 * share).abs().max() < 5 * (2000 * share * (1 - share)) ** 0.5
    other = ClassMemory(5)
    other.load_state_dict(memory.state_dict())
    assert other.sizes == memory.sizes == (10, 5)
    one, two = (m.sample_each(6, torch.Generator().manual_seed(1)) for m in (memory, other))
    assert torch.equal(one.index, two.index)
