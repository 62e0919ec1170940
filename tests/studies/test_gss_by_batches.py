"""The released GSS-Greedy: its comparisons against plain gradients, and when it changes a full memory."""

import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from pcl import MLP, ContinualModel
from pcl.memory.base import Seen
from studies.gss_by_batches import GSSByBatches, compare


def model() -> ContinualModel:
    torch.manual_seed(0)
    made = ContinualModel(MLP(6, [5]), 5, "class").double()
    made.add_task("a", range(4))
    return made


def filled(made: ContinualModel, capacity: int, rows: int) -> tuple[GSSByBatches, torch.Generator]:
    draws = torch.Generator().manual_seed(1)
    memory = GSSByBatches(capacity, keep_original=False)
    x, y = torch.rand(rows, 6, generator=draws, dtype=torch.float64), torch.arange(rows) % 4
    for i in range(0, rows, 10):
        memory.observe("a", x[i : i + 10], y[i : i + 10], range(4), draws, Seen(made, None))
    return memory, draws


def test_samples_and_their_mean_are_compared_with_batches() -> None:
    made = model()
    memory, draws = filled(made, 40, 40)
    stored = memory._batches(draws)
    assert [len(batch.y) for batch in stored] == [10] * 4
    x, y = torch.rand(3, 6, dtype=torch.float64), torch.tensor([0, 1, 3])

    def gradient(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(cross_entropy(made(x, "a"), y), list(made.parameters()))
        return torch.cat([g.flatten() for g in found])

    theirs = torch.stack([gradient(batch.x, batch.y) for batch in stored])
    samples, mean = compare(made, "a", x, y, stored)
    expected = [cosine_similarity(gradient(x[b : b + 1], y[b : b + 1])[None], theirs).max() for b in range(3)]
    torch.testing.assert_close(samples, torch.stack(expected))
    assert abs(mean - float(cosine_similarity(gradient(x, y)[None], theirs).max())) < 1e-9


def test_a_full_memory_changes_only_for_a_batch_that_points_away() -> None:
    made = model()
    memory, draws = filled(made, 20, 20)
    before = memory.x.clone()
    memory.observe("a", before[:10], memory.y[:10].clone(), range(4), draws, Seen(made, None))  # alike
    assert torch.equal(memory.x, before)
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(made(memory.x, "a"), memory.y * 0).backward()
        optimizer.step()
    memory.y.zero_()
    memory.observe("a", before[:10] + 0.01, torch.ones(10, dtype=torch.int64), range(4), draws, Seen(made, None))
    assert not torch.equal(memory.x, before)
