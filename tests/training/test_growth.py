"""Growth in the middle of training: triggers, several tasks at once, resumed runs, what it goes with and what not."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from growth_cases import Watch, said, stream, three, trainer
from torch import Tensor
from training_cases import everything, same

from pcl import (
    BGD,
    DER,
    EMGD,
    EWC,
    HAL,
    MAS,
    MGDA,
    MIR,
    SI,
    BeforeUpdate,
    ClassMemory,
    ContinualModel,
    FromScratch,
    GenerativeMemory,
    GMEDEdit,
    GradientEdit,
    Grow,
    GrowingModel,
    GrowWhen,
    GSSGreedy,
    HerdingMemory,
    LwF,
    MoCo,
    PCGrad,
    ReservoirMemory,
    SigmoidDistillation,
    Stream,
    Trainer,
)
from pcl.models.growth.choice import Budget
from pcl.models.growth.firefly import Firefly
from pcl.training.record import METRICS, RunRecorder
from tests.models.growing_cases import CLASSES, backbone, growing, samples

WITH: dict[str, Callable[[], dict[str, Any]]] = {
    "mean": dict,
    "momentum": lambda: {"optimizer": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.05)},
    "emgd": lambda: {"weighting": EMGD("gmc")},
    "pcgrad over all, clipped": lambda: {"weighting": PCGrad(), "gradients_over": "all", "clip": 0.5},
    "mgda and a reservoir": lambda: {"weighting": MGDA(), "memory": ReservoirMemory(20)},
    "mir": lambda: {"memory": ReservoirMemory(20), "retrieval": MIR(16, lr=0.01), "memory_batch": 4},
    "der": lambda: {"memory": ReservoirMemory(20, logits=True), "loss_terms": [DER(0.5)]},
    "an edit": lambda: {"memory": ReservoirMemory(20), "edit": GradientEdit(1e-3), "memory_batch": 4},
    "accumulated": lambda: {"accumulate": 2, "gramian": "always"},
    "bf16": lambda: {"precision": "bf16"},
}


@pytest.mark.parametrize("name", WITH)
def test_finished_tasks_keep_their_bits_whatever_trains_beside_growth(name: str) -> None:
    given = WITH[name]()
    batches = 8 * given.get("accumulate", 1)
    t, watch = trainer(*three(batches), when=GrowWhen("every", steps=3, most=1), **given)
    t.fit()
    assert len(watch.growths) >= 2
    for task in ("a", "b", "c"):
        assert torch.equal(said(t, task), watch.said[task])
    assert t.results()["F"] == 0
    assert all(loss == loss for record in watch.steps for loss in record["loss"].values())


def test_a_growth_is_recorded_with_the_size_that_the_network_has() -> None:
    t, watch = trainer(*three())
    t.fit()
    assert [(g["step"], g["tasks"]) for g in watch.growths] == [(3, ["a"]), (11, ["b"]), (13, ["c"])]
    assert [g["parameters"][1] for g in watch.growths] == watch.sizes
    assert isinstance(t.model, GrowingModel)
    assert t.model.size() == watch.sizes[-1]  # heads of all tasks were there at the last growth
    for growth in watch.growths:
        gained = sum(sum(gain.values()) for gain in growth["gained"].values())
        assert 0 < gained <= 4
        assert growth["neurons"][1] - growth["neurons"][0] == gained
        assert sum(b - a for a, b in growth["widths"].values()) == gained
        assert growth["predicted"] > 0
        json.dumps(growth)
    assert {name: width for name, (_, width) in watch.growths[-1]["widths"].items()} == t.model.widths
    in_optimizer = sum(p.numel() for group in t.optimizer.param_groups for p in group["params"])
    assert in_optimizer == sum(p.numel() for p in t.model.parameters())
    for state, parameter in ((t.optimizer.state[p], p) for g in t.optimizer.param_groups for p in g["params"]):
        assert all(v.shape == parameter.shape for v in state.values() if v.dim())


def test_two_active_tasks_grow_at_once_under_one_budget() -> None:
    t, watch = trainer(stream("a"), stream("b"), stream("c", start=2))
    t.fit(4)
    (growth,) = watch.growths
    assert growth["tasks"] == ["a", "b"]
    assert growth["neurons"][1] - growth["neurons"][0] <= 4
    assert isinstance(t.model, GrowingModel)
    for group, (before, after) in growth["widths"].items():
        gain = growth["gained"][group] if after > before else {"new": 0}
        new = torch.arange(after) >= after - gain["new"]
        for task in ("a", "b"):
            assert t.model.masks_of(task).on(group).all()
        assert not t.model.masks_of("c").on(group)[new].any()
    t.fit()
    assert all(torch.equal(said(t, task), watch.said[task]) for task in "abc")


def test_tasks_grow_on_the_loss_that_the_weighting_makes_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    t, watch = trainer(stream("a"), stream("b"), stream("c", start=2), weighting=EMGD("gmc"))
    seen: list[dict[str, float]] = []
    grow = GrowingModel.grow

    def look(model: GrowingModel, *given: Any, weights: dict[str, float], **more: Any) -> Any:
        seen.append(weights)
        return grow(model, *given, weights=weights, **more)

    monkeypatch.setattr(GrowingModel, "grow", look)
    t.fit(4)
    assert seen == [{task: watch.steps[-1]["weight"][task] for task in ("a", "b")}]
    assert seen[0]["a"] != seen[0]["b"]


def test_batches_for_a_growth_stay_next_in_their_streams() -> None:
    t, watch = trainer(*three())
    without, plain = trainer(*three(), when=GrowWhen("manual"))
    t.fit()
    without.fit()
    assert not plain.growths
    assert [r["tasks"] for r in watch.steps] == [r["tasks"] for r in plain.steps]
    assert [r["loss"]["a"] for r in watch.steps[:4]] == [r["loss"]["a"] for r in plain.steps[:4]]
    assert t.step_count == without.step_count


@pytest.mark.parametrize("killed_after", [2, 4, 12, 19])
def test_a_run_that_is_killed_and_resumed_grows_to_the_same_bits(killed_after: int) -> None:
    given = {"weighting": MGDA(), "memory": ReservoirMemory(10), "when": GrowWhen("plateau", steps=1, fall=0.9, most=2)}

    def made() -> tuple[Trainer, Watch]:  # a grows once more at the end of its first epoch, on batches of the second
        a = stream("a", 4, epochs=2)
        return trainer(a, stream("b", start=8), stream("c", start=10), **copy.deepcopy(given))

    whole, watch = made()
    whole.fit()
    assert {1, 3} < {growth["step"] for growth in watch.growths}
    first, _ = made()
    first.fit(killed_after)
    second, seen = made()
    second.load_state_dict(everything(first))
    assert second.model.widths == first.model.widths  # type: ignore[attr-defined]
    second.fit()
    assert same(everything(second), everything(whole))
    assert seen.growths == [g for g in watch.growths if g["step"] >= killed_after]


def test_a_checkpoint_wants_the_same_growth() -> None:
    first, _ = trainer(*three())
    first.fit(6)
    state = everything(first)
    for when in (GrowWhen("task", steps=5), GrowWhen("every", steps=4)):
        other, _ = trainer(*three(), when=when)
        with pytest.raises(ValueError, match="another callbacks"):
            other.load_state_dict(state)
        assert not other.model.tasks
    without = Trainer(growing(), optimizer=lambda p: torch.optim.AdamW(p, lr=0.01))
    for s in three():
        without.add(s)
    with pytest.raises(ValueError, match="another callbacks"):
        without.load_state_dict(state)
    wider = Trainer(
        GrowingModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 6)), 6, torch.rand(1, 1, 6, 6)),
        optimizer=lambda p: torch.optim.AdamW(p, lr=0.01),
    )
    with pytest.raises(ValueError, match="another backbone"):
        wider.load_state_dict(state)
    plain = Trainer(ContinualModel(backbone("mlp"), 6), optimizer=lambda p: torch.optim.AdamW(p, lr=0.01))
    with pytest.raises(ValueError, match=r"another backbone: the checkpoint has \{'groups with masks'"):
        plain.load_state_dict(state)


def test_growths_are_written_down(tmp_path: Path) -> None:
    t, watch = trainer(*three())
    t.use(RunRecorder(tmp_path, 5))
    t.fit()
    rows = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [row for row in rows if row["kind"] == "growth"] == watch.growths


def same_batch(task: str, batches: int = 12) -> Stream:
    return Stream(task, [samples(task, 4)] * batches, CLASSES[task], test=samples(task))


def at(when: GrowWhen, **arguments: Any) -> list[int]:
    """Steps in which a task grows whose loss stays where it is."""
    t, watch = trainer(same_batch("a"), when=when, optimizer=lambda p: torch.optim.SGD(p, lr=1e-9), **arguments)
    t.fit()
    return [growth["step"] for growth in watch.growths]


def test_triggers() -> None:
    assert at(GrowWhen("task", steps=4)) == [3]
    assert at(GrowWhen("every", steps=4)) == [3, 7]  # nothing is left to grow on after the last step
    assert at(GrowWhen("every", steps=3, most=2)) == [2, 5]
    assert at(GrowWhen("plateau", steps=2)) == [3, 7]
    assert at(GrowWhen("manual")) == []


def test_what_is_solved_does_not_grow() -> None:
    assert at(GrowWhen("every", steps=4, loss=100.0)) == []
    assert at(GrowWhen("every", steps=4, loss=0.0)) == [3, 7]
    assert at(GrowWhen("every", steps=4, accuracy=0.0)) == []
    assert at(GrowWhen("every", steps=4, accuracy=1.0), evaluate_every=1) == [3, 7]
    assert at(GrowWhen("every", steps=4, solved=lambda trainer, task: trainer.step_count < 6)) == [5, 9]


def test_a_falling_loss_is_no_plateau() -> None:
    t, watch = trainer(
        same_batch("a"), when=GrowWhen("plateau", steps=2), optimizer=lambda p: torch.optim.Adam(p, lr=0.02)
    )
    t.fit()
    losses = [record["loss"]["a"] for record in watch.steps]
    assert sum(losses[2:4]) < 0.98 * sum(losses[:2])
    assert not any(growth["step"] == 3 for growth in watch.growths)


def test_by_hand() -> None:
    t, watch = trainer(*three(), when=GrowWhen("manual"))
    (grow,) = [c for c in t._callbacks.remembering if isinstance(c, Grow)]
    t.fit(11)
    record = grow.now(t, ["c"])
    assert record is not None
    assert record == watch.growths[0]
    assert record["tasks"] == ["c"]
    both = grow.now(t)
    assert both is not None
    assert both["tasks"] == ["b", "c"]
    with pytest.raises(ValueError, match="task 'a' does not run"):
        grow.now(t, ["a"])
    t.fit()
    assert grow.now(t) is None  # nothing runs


def test_every_strategy_gives_the_same_steps() -> None:
    def run(strategy: str) -> Trainer:
        t, _ = trainer(*three(), weighting=PCGrad(), strategy=strategy)
        t.fit()
        return t

    reference = run("loop")
    with pytest.warns(UserWarning, match="inputs are not tensors"):
        segment = run("segment")
    assert same(everything(reference)["model"], everything(segment)["model"])
    assert same(everything(reference)["model"], everything(run("auto"))["model"])


def test_tasks_conflict_on_free_entries_alone() -> None:
    t, _ = trainer(stream("a"), stream("b", start=8), stream("c", start=8), when=GrowWhen("manual"))
    t.fit(9)
    assert isinstance(t.model, GrowingModel)
    assert t.model.used("backbone.1").all()
    shared = t.model.shared_parameters()
    of_backbone = {id(p) for p in t.model.backbone.parameters()}

    def gradients(task: str) -> list[Tensor | None]:
        return list(torch.autograd.grad(t.model.losses(*samples(task), task).mean(), shared, allow_unused=True))

    def reached(task: str) -> list[bool]:
        return [g is not None and bool(g.count_nonzero()) for g in gradients(task)]

    assert not any(hit for p, hit in zip(shared, reached("b"), strict=True) if id(p) in of_backbone)
    assert any(reached("b"))  # the scores of its masks
    assert not any(x and y for x, y in zip(reached("b"), reached("c"), strict=True))
    t.model.grow(Firefly(new=3, steps=3), {"b": [samples("b")], "c": [samples("c")]}, Budget(neurons=4))
    shared = t.model.shared_parameters()
    assert any(x and y for x, y in zip(reached("b"), reached("c"), strict=True))


REFUSED: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (lambda: {"loss_terms": [EWC(1.0)]}, "EWC"),
    (lambda: {"loss_terms": [SI(1.0)]}, "SI"),
    (lambda: {"loss_terms": [MAS(1.0)]}, "MAS"),
    (lambda: {"loss_terms": [LwF(1.0)]}, "LwF"),
    (lambda: {"loss_terms": [SigmoidDistillation(1.0)]}, "SigmoidDistillation"),
    (lambda: {"loss_terms": [HAL(0.1)], "memory": ClassMemory(2)}, "HAL"),
    (lambda: {"loss_terms": [DER(0.5, 0.5)], "memory": ReservoirMemory(9, logits=True)}, "DER"),
    (lambda: {"weighting": MoCo()}, "MoCo"),
    (lambda: {"memory": ClassMemory(2), "memory_tasks": "each"}, "memory_tasks='each'"),
    (lambda: {"memory": HerdingMemory(9)}, "HerdingMemory"),
    (lambda: {"memory": GSSGreedy(9)}, "GSSGreedy"),
    (lambda: {"memory": GenerativeMemory()}, "GenerativeMemory"),
    (lambda: {"memory": ClassMemory(2), "inference": FromScratch(lambda: backbone("mlp"))}, "inference"),
    (lambda: {"memory": ClassMemory(2)}, "ClassMemory"),
    (lambda: {"memory": ReservoirMemory(9), "retrieval": MIR(9, lr=0.1, finished_only=True)}, "MIR of finished"),
    (lambda: {"memory": ReservoirMemory(9), "edit": BeforeUpdate(GMEDEdit(0.1, lr=0.1))}, "edit before"),
    (lambda: {"optimizer": lambda p: BGD(p, lr=1.0, samples=4)}, "BGD"),
    (lambda: {"cuda_graph": True}, "cuda_graph"),
]


@pytest.mark.parametrize(("arguments", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_cannot_go_with_growth_is_refused_before_anything_changes(
    arguments: Callable[[], dict[str, Any]], named: str
) -> None:
    with pytest.raises(ValueError, match=f"{named}.*GrowingModel"):
        trainer(stream("a"), **arguments())


def test_errors() -> None:
    firefly, budget = Firefly(), Budget(neurons=2)
    with pytest.raises(ValueError, match="trigger: expected one of task, plateau, every, manual, got 'never'"):
        GrowWhen("never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        GrowWhen(steps=0)
    with pytest.raises(ValueError, match="most: expected at least 1"):
        GrowWhen(most=0)
    with pytest.raises(ValueError, match="fall: expected a share"):
        GrowWhen(fall=1.0)
    with pytest.raises(ValueError, match="accuracy: expected a share from 0 to 1, and no percent, got 95"):
        GrowWhen(accuracy=95)
    with pytest.raises(ValueError, match="batches: expected at least 1"):
        Grow(firefly, budget, batches=0)
    for given in ((firefly, Budget(neurons=2, layers=1)), (Firefly(layers=4), budget)):
        with pytest.raises(ValueError, match="expected no new layers"):
            Grow(*given)
    plain = Trainer(
        ContinualModel(backbone("mlp"), 6),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        callbacks=[Grow(firefly, budget)],
    )
    plain.add(stream("a"))
    before = everything(plain)
    with pytest.raises(TypeError, match="expected a GrowingModel"):
        plain.fit()
    assert same(everything(plain), before)
