"""A stream of its own for the memory of every finished task: losses, gradients, parts, edits, resuming, replaying."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_cases import blobs, everything, same, stream, trainer

from pcl import (
    AGEM,
    GEM,
    MEGAII,
    MEMORY,
    MGDA,
    MLP,
    ClassMemory,
    ContinualModel,
    GradientEdit,
    Mean,
    Stream,
    Trainer,
    Weighting,
    memory_of,
)
from pcl.training.cuda_graph import WARM_UP, GraphedStep
from pcl.training.step_result import StepResult

OLD = (memory_of("a"), memory_of("b"))


def three(**arguments: Any) -> Trainer:
    """Tasks a, b, c one after the other, of 6, 6 and 12 steps."""
    return trainer(
        stream("a", [0, 1]), stream("b", [2, 3], start=6), stream("c", [4, 5], 48, start=12),
        **{"memory_tasks": "each", "memory_batch": 7, **arguments},
    )  # fmt: skip


def steps(t: Trainer) -> list[StepResult]:
    found = []
    while (result := t.step()) is not None:
        found.append(result)
    return found


@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("weighting", [GEM, AGEM, MEGAII, MGDA, Mean])
def test_every_finished_task_has_a_stream(weighting: type[Weighting], setting: str) -> None:
    found = steps(three(weighting=weighting(), setting=setting))
    assert [r.tasks for r in found] == [("a",)] * 6 + [("b", OLD[0])] * 6 + [("c", *OLD)] * 12
    assert [r.samples for r in found] == [4] * 6 + [4 + 6] * 6 + [4 + 7] * 12  # a holds 6 in all
    assert all(r.losses.isfinite().all() and r.weights.isfinite().all() for r in found)


@pytest.mark.parametrize("weighting", [GEM, Mean])
def test_more_tasks_than_memory_samples(weighting: type[Weighting]) -> None:
    """One sample of every finished task comes, as many as there are."""
    t = three(weighting=weighting(), memory_batch=1)
    t.add(stream("d", [6, 7], start=24))
    found = steps(t)
    assert found[-1].tasks == ("d", *OLD, memory_of("c"))
    assert found[-1].samples == 4 + 3
    assert all(r.losses.isfinite().all() and (r.losses > 0).all() for r in found)


@pytest.mark.parametrize("strategy", ["auto", "loop", "lowmem"])
@pytest.mark.parametrize("setting", ["task", "class"])
def test_losses_and_gramian_are_those_of_each_tasks_samples(setting: str, strategy: str) -> None:
    t = three(weighting=GEM(), setting=setting, strategy=strategy)
    t.fit(14)
    assert t.memory is not None
    draws = torch.Generator()
    draws.set_state(t._retrieval.get_state())
    drawn, batch = t.memory.sample_each(7, draws), t.streams["c"].peek()
    assert batch is not None
    rows: list[Tensor] = []
    losses: list[Tensor] = []
    for task, x, y in [("c", *batch), *((name, x, y) for name, x, y in drawn.blocks())]:
        columns = list(t.model.columns(task))
        loss = nn.functional.cross_entropy(t.model(x, task), torch.tensor([columns.index(int(c)) for c in y]))
        losses.append(loss.detach())
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, t.model.shared_parameters())]))
    result = t.step()
    assert result is not None
    assert result.gram is not None
    assert torch.allclose(result.losses, torch.stack(losses), rtol=1e-5)
    expected = torch.stack(rows).double() @ torch.stack(rows).double().T
    assert torch.allclose(result.gram, expected, rtol=1e-4, atol=1e-5 * expected.diagonal().max().item())


def test_gem_harms_no_finished_task_to_first_order() -> None:
    """In every step of a run in which the plain gradient does: <d, g_t> >= 0 for all of them."""
    conflicts = 0
    for r in steps(three(weighting=GEM(), setting="class")):
        assert r.gram is not None
        old = torch.tensor([task in OLD for task in r.tasks])
        mean = (~old).double() / (~old).sum()
        conflicts += int((r.gram[old] @ mean < 0).any())
        gain = (r.gram @ r.weights)[old]
        assert (gain >= -1e-9 * r.gram.diagonal()[old].sqrt() * r.gram.diagonal().max().sqrt()).all()
    assert conflicts > 5


@pytest.mark.parametrize("weighting", [GEM, Mean])
def test_parts_are_one_large_batch(weighting: type[Weighting]) -> None:
    def run(size: int, memory_batch: int, accumulate: int) -> list[StepResult]:
        torch.manual_seed(0)
        t = Trainer(
            ContinualModel(MLP(6, [16, 8]).double(), 8), optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
            memory=ClassMemory(3), memory_tasks="each", memory_batch=memory_batch, accumulate=accumulate,
            weighting=weighting(),
        )  # fmt: skip
        for task, classes, start in (("a", [0, 1], 0), ("b", [2, 3], 3), ("c", [4, 5], 6)):
            x, y = blobs(classes, 24)
            t.add(Stream(task, list(zip(x.double().split(size), y.split(size), strict=True)), classes, start=start))
        return steps(t)

    for whole, parts in zip(run(8, 8, 1), run(2, 2, 4), strict=True):
        assert whole.tasks == parts.tasks
        assert whole.samples == parts.samples
        assert torch.allclose(whole.losses, parts.losses, rtol=1e-9)
        assert torch.allclose(whole.weights, parts.weights, rtol=1e-6, atol=1e-9)


def test_edits_change_the_samples_that_were_drawn() -> None:
    t = three(weighting=GEM(), edit=GradientEdit(0.01))
    t.fit(14)
    assert t.memory is not None
    before, draws = t.memory.x.clone(), torch.Generator()
    draws.set_state(t._retrieval.get_state())
    drawn = t.memory.sample_each(7, draws)
    result = t.step()
    assert result is not None
    changed = (t.memory.x != before).any(dim=1)
    assert changed.sum() > 0
    assert not changed[[i for i in range(len(before)) if i not in drawn.index.tolist()]].any()
    assert result.edited == pytest.approx((t.memory.x - before).abs()[drawn.index].mean().item())


@pytest.mark.parametrize("stop", [5, 8, 15])
def test_a_resumed_run_repeats(stop: int) -> None:
    def made() -> Trainer:
        return three(weighting=GEM(), edit=GradientEdit(0.01))

    whole, first, second = made(), made(), made()
    whole.fit()
    first.fit(stop)
    second.load_state_dict(everything(first))
    second.fit()
    assert same(everything(whole), everything(second))
    with pytest.raises(ValueError, match="another memory_tasks"):
        three(weighting=GEM(), edit=GradientEdit(0.01), memory_tasks="one").load_state_dict(first.state_dict())


def test_replayed_steps_are_the_plain_ones() -> None:
    plain, other = (three(weighting=AGEM()) for _ in range(2))
    captures = []
    other._graph = GraphedStep(other, lambda function: captures.append(1) or function)  # type: ignore[func-returns-value]
    assert steps(plain)[-1].tasks == steps(other)[-1].tasks == ("c", *OLD)
    assert same(everything(plain)["model"], everything(other)["model"])
    assert len(captures) == 3  # {a}, {b, memory:a}, {c, memory:a, memory:b}
    assert WARM_UP < 6


def test_the_two_kinds_are_refused_by_other_names() -> None:
    with pytest.raises(ValueError, match="memory_tasks 'one' or 'each', got 'all'"):
        three(memory_tasks="all")
    assert MEMORY in {task for r in steps(three(memory_tasks="one")) for task in r.tasks}


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_the_report_shows_every_stream(tmp_path: Path) -> None:
    from pcl.report import write_report
    from pcl.report.run import read_run
    from pcl.run import RunConfig, start

    config = RunConfig(epochs=1, batch_size=48, method="gem", timeline="serial", evaluate_every=100)
    start(config, tmp_path / "r")
    run = read_run(tmp_path / "r")
    assert run.names == (*(f"task-{t}" for t in range(1, 6)), *(memory_of(f"task-{t}") for t in range(1, 5)))
    assert "memory:task-4" in write_report(tmp_path / "r").read_text()
