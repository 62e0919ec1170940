"""The loop: against the same steps written out, and through everything that streams may do."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcl import EMGD, MEMORY, MLP, Batches, ClassMemory, ContinualModel, GradientEdit, Stream, Sum, Trainer


def blobs(classes: list[int], n: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points in [0, 1]^6 around a corner per class."""
    draws = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 2, (10, 6), generator=torch.Generator().manual_seed(9)).float()
    y = torch.tensor(classes)[torch.arange(n) % len(classes)]
    return (corners[y] * 0.8 + 0.2 * torch.rand(n, 6, generator=draws)), y


def stream(task: str, classes: list[int], n: int = 24, **arguments: Any) -> Stream:
    x, y = blobs(classes, n)
    return Stream(task, Batches(x, y, 4, name=task), classes, test=blobs(classes, seed=1), **arguments)


def trainer(*streams: Stream, setting: str = "task", **arguments: Any) -> Trainer:
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [16, 8]), 8, setting)  # type: ignore[arg-type]
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.2), "memory": ClassMemory(3)}
    made = Trainer(model, **{**given, **arguments})
    for s in streams:
        made.add(s)
    return made


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
    t = trainer(stream("a", [0, 1]), stream("b", [2, 3]), gradients_over="all")
    backbone_only = trainer(stream("a", [0, 1]), stream("b", [2, 3]))
    over_all, over_backbone = t.step(), backbone_only.step()
    assert over_all is not None
    assert over_backbone is not None
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


# ---- refusals leave everything as it was


def everything(t: Trainer) -> dict[str, Any]:
    return copy.deepcopy(t.state_dict())  # the state holds the tensors in use


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


X, Y = torch.rand(4, 6), torch.tensor([5, 6, 5, 6])
BAD_BATCHES: dict[str, tuple[Any, type[Exception], str]] = {
    "label": ((X, torch.tensor([5, 6, 7, 6])), ValueError, "label 7 is outside"),
    "nan": ((X.clone().fill_(torch.nan), Y), ValueError, "NaN or infinite"),
    "inf": ((X / 0, Y), ValueError, "NaN or infinite"),
    "width": ((torch.rand(4, 7), Y), ValueError, r"shape \(6,\)"),
    "double": ((X.double(), Y), TypeError, "float32, as the backbone"),
    "integers": ((X.long(), Y), TypeError, "float32, as the backbone"),
    "float labels": ((X, Y.float()), TypeError, "integer dtype"),
    "labels too few": ((X, Y[:2]), ValueError, r"y \(B,\)"),
    "empty": ((X[:0], Y[:0]), ValueError, "B >= 1"),
    "no pair": (X, TypeError, r"batches \(x, y\)"),
    "no tensors": (([1.0], [5]), TypeError, r"batches \(x, y\)"),
}


@pytest.mark.parametrize("case", BAD_BATCHES)
def test_bad_batches_are_refused_before_anything_changes(case: str) -> None:
    bad, kind, message = BAD_BATCHES[case]
    t = trainer(stream("a", [0, 1], 8), stream("c", [2, 3], 80))
    t.fit(steps=3)  # with memory in use
    t.add(Stream("bad", [bad, (X, Y)], [5, 6]))
    before = everything(t)
    with pytest.raises(kind, match=message):
        t.step()
    assert same(before, everything(t))
    with pytest.raises(kind, match=message):  # the batch is still next ...
        t.step()
    t.streams["bad"].advance()  # ... until it is skipped
    assert t.step() is not None


class Explosive(nn.Module):
    """A backbone with statistics and dropout, whose output, or its gradient, can be made infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.mode = ""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        if self.mode == "loss":
            return out * torch.inf
        return out + torch.sqrt(out.abs() * 0) if self.mode == "gradient" else out


@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_losses_and_gradients_that_are_not_finite_change_nothing(mode: str) -> None:
    backbone = Explosive()
    t = Trainer(ContinualModel(backbone, 8), optimizer=lambda p: torch.optim.Adam(p), memory=ClassMemory(2))
    t.add(stream("a", [0, 1], 8))
    t.add(stream("b", [2, 3], 80))
    t.fit(steps=3)
    before = everything(t)
    backbone.mode = mode
    with pytest.raises(FloatingPointError, match="of task 'b' is"):
        t.step()
    assert same(before, everything(t))
    backbone.mode = ""
    assert t.step() is not None


def test_the_comparison_of_states_sees_differences() -> None:
    t = trainer(stream("a", [0, 1]))
    t.step()
    before = everything(t)
    with torch.no_grad():
        next(t.model.parameters()).mul_(2)
    assert not same(before, everything(t))


def test_a_bad_first_batch_does_not_spoil_the_next() -> None:
    x, y = blobs([0, 1])
    t = trainer(Stream("a", [(torch.rand(24, 7), y), (x, y)], [0, 1]))
    with pytest.raises(ValueError, match=r"'a': the backbone refuses samples of shape \(7,\)"):
        t.step()
    assert t.model.tasks == ()
    t.streams["a"].advance()
    assert t.step() is not None


@pytest.mark.parametrize("backbone", [MLP(6, [5]), nn.Unflatten(1, (2, 3))])
def test_features_of_the_wrong_shape_are_named(backbone: nn.Module) -> None:
    model = ContinualModel(nn.Sequential(nn.Linear(6, 6), backbone), 8)
    t = Trainer(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    t.add(stream("a", [0, 1]))
    with pytest.raises(ValueError, match=r"features of shape \(1, 8\), it gave"):
        t.step()


class Mad(Sum):
    def __call__(self, gram: Tensor, losses: Tensor, tasks: Any) -> Tensor:
        return super().__call__(gram, losses, tasks) * self.factor

    def __init__(self, factor: Tensor) -> None:
        self.factor = factor


@pytest.mark.parametrize(
    ("factor", "kind"), [(torch.tensor(torch.nan), FloatingPointError), (torch.ones(2, 1), ValueError)]
)
def test_bad_weights_are_refused(factor: Tensor, kind: type[Exception]) -> None:
    t = trainer(stream("a", [0, 1]), weighting=Mad(factor))
    with pytest.raises(kind, match="weighting: expected"):
        t.step()
    assert t.step_count == 0


class Failing(GradientEdit):
    def gradient(self, *arguments: Any) -> Tensor:
        raise ArithmeticError("no edit")


def test_an_edit_that_fails_leaves_a_whole_step() -> None:
    t = trainer(stream("a", [0, 1], 8), stream("b", [2, 3], 80), edit=Failing(0.1))
    t.fit(steps=2)
    taken = t.streams["b"].state_dict()["taken"]
    with pytest.raises(ArithmeticError, match="no edit"):
        t.step()
    assert t.step_count == 3
    assert t.streams["b"].state_dict()["taken"] == taken + 1


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


def broken() -> Iterator[Any]:
    yield blobs([0, 1])
    raise OSError("connection lost")


def test_a_source_that_failed_is_not_taken_for_dry() -> None:
    t = trainer(Stream("a", broken(), [0, 1]))
    t.step()
    with pytest.raises(OSError, match="connection lost"):
        t.step()
    with pytest.raises(RuntimeError, match="source failed before"):
        t.step()
    assert t.ended_at == {}


def nothing() -> Iterator[Any]:
    yield from ()


def test_wrong_use_is_refused() -> None:
    t = trainer(stream("a", [0, 1]))
    with pytest.raises(ValueError, match="named 'a'"):
        t.add(stream("a", [2]))
    t.add(Stream("b", nothing(), [1]))
    with pytest.raises(ValueError, match="source is empty"):
        t.step()
    with pytest.raises(ValueError, match="memory"):
        trainer(memory=None, edit=GradientEdit(0.1))
    with pytest.raises(ValueError, match="'backbone' or 'all'"):
        trainer(gradients_over="heads")
    with pytest.raises(ValueError, match="at least 1"):
        trainer(memory_batch=0)
    with pytest.raises(ValueError, match="at least 1"):
        trainer(evaluate_every=0)
    t.step_count = 5
    with pytest.raises(ValueError, match="later end"):
        t.add(stream("late", [0], end=4))
    with pytest.raises(TypeError, match="expected a Stream"):
        t.add([1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="wrap your network"):
        Trainer(MLP(2, [2]), optimizer=torch.optim.SGD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no trainable parameter"):
        Trainer(ContinualModel(nn.Flatten(), 6), optimizer=torch.optim.SGD)
    with pytest.raises(TypeError, match="on_step"):
        trainer(callbacks=[object()])
