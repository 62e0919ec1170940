"""The loop: against the same steps written out, and through everything that streams may do."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_cases import stream, trainer

from pcl import EMGD, MEMORY, MIR, MLP, ClassMemory, ContinualModel, GradientEdit, ReservoirMemory, Stream, Sum, Trainer


class Log:
    def __init__(self) -> None:
        self.tasks: list[tuple[str, ...]] = []
        self.events: list[tuple[str, str, int]] = []

    def on_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.tasks.append(tuple(record["tasks"]))

    def on_task_start(self, trainer: Trainer, task: str) -> None:
        self.events.append(("start", task, trainer.step_count))

    def on_task_end(self, trainer: Trainer, task: str) -> None:
        self.events.append(("end", task, trainer.ended_at[task]))


def test_a_step_is_the_sum_of_gradients_for_the_sum_weighting() -> None:
    t = trainer(stream("a", [0, 1]), stream("b", [2, 3]), weighting=Sum())
    batches = {task: s.peek() for task, s in t.streams.items()}
    for task, s in t.streams.items():
        t.model.add_task(task, s.classes)
    twin = ContinualModel(MLP(6, [16, 8]), 8)
    for task, s in t.streams.items():
        twin.add_task(task, s.classes)
    twin.load_state_dict(t.model.state_dict())
    sum(twin.losses(*batch, task).mean() for task, batch in batches.items()).backward()  # type: ignore[union-attr, misc]
    t.optimizer.add_param_group({"params": t.model.head_parameters()})
    t.step()
    for mine, other in zip(t.model.parameters(), twin.parameters(), strict=True):
        assert other.grad is not None
        assert torch.allclose(mine, other - 0.2 * other.grad, atol=1e-6)


def test_a_stream_ends_when_dry_and_memory_joins_at_the_next_step() -> None:
    log = Log()
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 16, start=1), callbacks=[log])
    t.fit()
    assert log.tasks == [("a",), ("a", "b"), ("b", MEMORY), ("b", MEMORY), ("b", MEMORY)]
    assert log.events == [("start", "a", 0), ("start", "b", 1), ("end", "a", 1), ("end", "b", 4)]
    assert t.ended_at == {"a": 1, "b": 4}


def test_accuracy_is_measured_when_tasks_end() -> None:
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 16, start=1))
    t.fit()
    assert [entry["step"] for entry in t.history] == [1, 4]
    assert [list(entry["accuracy"]) for entry in t.history] == [["a", "b"], ["a", "b"]]


def test_serial_and_parallel_are_the_same_loop() -> None:
    log = Log()
    t = trainer(stream("a", [0], 8), stream("b", [1], 8, start=2), stream("c", [2], 8, start=4), callbacks=[log])
    t.fit()
    assert [tasks[0] for tasks in log.tasks] == ["a", "a", "b", "b", "c", "c"]


@pytest.mark.parametrize("setting", ["task", "class"])
def test_it_learns_and_remembers(setting: str) -> None:
    streams = [stream("a", [0, 1], 200), stream("b", [2, 3], 200, start=10), stream("c", [1, 4], 200, start=50)]
    t = trainer(*streams, setting=setting, weighting=EMGD("gmc"), edit=GradientEdit(0.01), memory=ClassMemory(10))
    t.fit()
    chance = {"task": 1 / 2, "class": 1 / 5}[setting]
    assert min(t.history[-1]["accuracy"].values()) > 0.15 + chance * 1.5


def test_streams_added_paused_resumed_and_ended_while_training() -> None:
    log = Log()
    t = trainer(stream("a", [0, 1], 400), callbacks=[log])
    t.fit(steps=2)
    t.add(stream("b", [2, 3], 400))
    t.step()
    t.streams["a"].pause()
    t.step()
    assert t.active == ("b",)
    t.streams["a"].resume()
    t.step()
    t.streams["b"].end()
    t.step()
    assert log.tasks == [("a",), ("a",), ("a", "b"), ("b",), ("a", "b"), ("a", MEMORY)]
    assert t.ended_at == {"b": 4}


def test_a_paused_stream_loses_no_batch() -> None:
    x, y = torch.rand(6, 6), torch.zeros(6, dtype=torch.int64)
    seen: list[Tensor] = []

    class Watch(MLP):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            if self.training:
                seen.append(x)
            return super().forward(x)

    model = ContinualModel(Watch(6, [4]), 4)
    t = Trainer(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    t.add(Stream("a", list(zip(x.split(1), y.split(1), strict=True)), [0]))
    t.add(Stream("b", [(x[:1] * 0, y[:1])] * 9, [0]))
    t.step()
    t.streams["a"].pause()
    t.step()
    t.step()
    t.streams["a"].resume()
    t.fit()
    from_a = [tuple(row.tolist()) for s in seen for row in s if row.any()]
    assert list(dict.fromkeys(from_a)) == [tuple(row.tolist()) for row in x]  # all, in order


def test_the_last_step_of_a_stream_can_be_given() -> None:
    log = Log()
    t = trainer(stream("a", [0], 400, end=2), stream("b", [1], 20), callbacks=[log])
    t.fit()
    assert t.ended_at == {"a": 2, "b": 4}


def test_silence_is_explained() -> None:
    t = trainer(stream("a", [0], 8))
    t.step()
    t.streams["a"].pause()
    with pytest.raises(RuntimeError, match="paused"):
        t.fit()
    t = trainer(stream("a", [0], 8), stream("b", [1], 8, start=5))
    with pytest.raises(RuntimeError, match=r"gap in the timeline.*step 2.*starts at 5"):
        t.fit()


def test_new_heads_join_the_optimizer() -> None:
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 8, start=1), optimizer=lambda p: torch.optim.Adam(p))
    t.step()
    first = t.optimizer.state[t.model.heads[0].weight]["exp_avg"].clone()
    t.step()
    assert len(t.optimizer.param_groups) == 3
    assert t.optimizer.state[t.model.heads[0].weight]["step"] == 2
    assert t.optimizer.state[t.model.heads[1].weight]["step"] == 1
    assert first.any()


def test_a_finished_tasks_head_rests_without_memory() -> None:
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 16), memory=None, optimizer=lambda p: torch.optim.Adam(p))
    t.step()
    t.step()
    before = t.model.heads[0].weight.clone()
    t.fit()
    assert torch.equal(before, t.model.heads[0].weight)


def test_all_parameters_can_be_weighted() -> None:
    t = trainer(stream("a", [0, 1]), stream("b", [2, 3]), gradients_over="all", gramian="always")
    backbone_only = trainer(stream("a", [0, 1]), stream("b", [2, 3]), gramian="always")
    over_all, over_backbone = t.step(), backbone_only.step()
    assert over_all is not None
    assert over_all.gram is not None
    assert over_backbone is not None
    assert over_backbone.gram is not None
    assert (over_all.gram.diagonal() > over_backbone.gram.diagonal()).all()
    assert torch.allclose(over_all.gram[0, 1], over_backbone.gram[0, 1])  # heads of two tasks never meet


def test_edits_change_only_what_was_retrieved() -> None:
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 40), edit=GradientEdit(1.0), memory_batch=2)
    t.step()
    t.step()
    result = t.step()
    assert result is not None
    assert result.edited is not None
    assert t.memory is not None
    assert (t.memory.drift() > 0).sum() <= 2
    assert result.edited > 0
    assert t.memory.x.min() >= 0
    assert t.memory.x.max() <= 1


def test_a_callback_may_add_the_next_stream() -> None:
    class Next:
        def on_task_end(self, trainer: Trainer, task: str) -> None:
            if task == "a":
                trainer.add(stream("b", [2, 3], 8))

    t = trainer(stream("a", [0, 1], 8), callbacks=[Next()])
    t.fit()
    assert t.ended_at == {"a": 1, "b": 3}


def test_results_by_hand_also_of_a_task_ended_while_paused() -> None:
    t = trainer(stream("a", [0, 1], 40), stream("b", [2, 3], 40))
    t.fit(steps=3)
    t.streams["a"].pause()
    t.fit(steps=4)
    t.streams["a"].end()
    t.fit()
    results = t.results()
    assert t.ended_at == {"a": 2, "b": 9}
    measured = [entry["accuracy"] for entry in t.history]
    assert results["at_end"] == {"a": measured[0]["a"], "b": measured[1]["b"]}
    drops = [measured[1][task] - results["at_end"][task] for task in ("a", "b")]
    assert results["F"] == pytest.approx(sum(drops) / 2)
    assert results["A"] == pytest.approx(sum(measured[1].values()) / 2)


def test_ended_tasks_are_forgotten_by_the_weighting() -> None:
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 16), weighting=EMGD("gmc"))
    t.fit()
    assert set(t.weighting.state_dict()["norms"]) == {MEMORY}


def test_memory_sees_every_sample_once() -> None:
    t = trainer(stream("a", [0, 1], 8, epochs=3), memory=ClassMemory(50))
    t.fit()
    assert t.memory is not None
    assert len(t.memory) == 8
    assert len(t.memory.x.unique(dim=0)) == 8


def test_accuracy_is_measured_in_evaluation_mode() -> None:
    torch.manual_seed(0)
    backbone = nn.Sequential(MLP(6, [16]), nn.Dropout(0.9))
    t = Trainer(ContinualModel(backbone, 16), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    t.add(stream("a", [0, 1], 40))
    t.fit()
    x, y = t.streams["a"].test  # type: ignore[misc]
    backbone.eval()
    assert t.history[-1]["accuracy"]["a"] == (t.model.predict(x, "a") == y).float().mean()


def test_a_paused_stream_past_its_end_ends() -> None:
    t = trainer(stream("a", [0, 1], 80, end=3), stream("b", [2, 3], 40))
    t.step()
    t.streams["a"].pause()
    t.fit()
    assert t.ended_at == {"a": 0, "b": 9}


COMPOSITIONS: dict[str, dict[str, Any]] = {
    "emgd": {"weighting": EMGD(), "edit": GradientEdit(1e-3)},
    "without a graph": {"setting": "class", "weighting": Sum(), "memory": ReservoirMemory(20)},
    "looking ahead": {
        "setting": "class",
        "weighting": Sum(),
        "memory": ReservoirMemory(20),
        "retrieval": MIR(8, lr=0.1),
    },
    "by parts": {"accumulate": 2, "memory_tasks": "each"},
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_the_tensors_of_a_step_go_with_it(name: str) -> None:
    more = {"memory": ReservoirMemory(20), "memory_batch": 4, **COMPOSITIONS[name]}
    t = trainer(stream("a", [0, 1], 12), stream("b", [2, 3], 60, start=1), **more)
    t.fit(6)
    gc.collect()
    gc.disable()
    try:
        t.step()
        assert gc.collect() == 0  # no cycle that had to wait for the collector
    finally:
        gc.enable()
