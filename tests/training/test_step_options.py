"""What a step may be asked for: accumulation, clipping, precision, frozen parameters, and what it then costs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_cases import blobs, stream, trainer

from pcl import (
    DWA,
    EMGD,
    FAMO,
    MEMORY,
    MGDA,
    MLP,
    RLW,
    ClassMemory,
    ContinualModel,
    GradDrop,
    GradientEdit,
    GradientWeighting,
    GradNorm,
    Mean,
    MoCo,
    Stream,
    Sum,
    Trainer,
    TrimmedMean,
    Uncertainty,
    Weighting,
)

WEIGHTINGS: dict[str, Callable[[], Weighting | GradientWeighting]] = {
    "sum": Sum,
    "mean": Mean,
    "mgda": MGDA,
    "emgd": lambda: EMGD("gmc"),
    "rlw": RLW,
    "dwa": lambda: DWA(period=2),
    "uncertainty": Uncertainty,
    "famo": FAMO,
    "graddrop": GradDrop,
    "trimmed-mean": TrimmedMean,
    "moco": MoCo,
    "famo next step": lambda: FAMO(second_loss="next step"),
    "gradnorm": GradNorm,
}


class Log:
    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_step(self, trainer: Trainer, record: dict[str, Any]) -> None:
        self.records.append(record)


def fitted(size: int, n: int = 24, **arguments: Any) -> tuple[Trainer, list[dict[str, Any]]]:
    """A run in float64 on two tasks and the memory of the first, with batches of ``size``."""
    torch.manual_seed(0)
    model = ContinualModel(MLP(6, [16, 8]).double(), 8)
    log = Log()
    t = Trainer(
        model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), memory=ClassMemory(3), callbacks=[log],
        **arguments,
    )  # fmt: skip
    for task, classes, count in (("a", [0, 1], n), ("b", [2, 3], 2 * n)):
        x, y = blobs(classes, count)
        t.add(Stream(task, list(zip(x.double().split(size), y.split(size), strict=True)), classes))
    t.fit()
    return t, log.records


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("gradients_over", ["backbone", "all"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("n", [24, 21])  # 21: the last batch of an epoch is smaller, and the last step takes fewer
def test_accumulated_batches_are_one_large_batch(weighting: str, n: int, gradients_over: str) -> None:
    make = WEIGHTINGS[weighting]
    whole, once = fitted(8, n, weighting=make(), memory_batch=4, gradients_over=gradients_over)
    parts, often = fitted(2, n, weighting=make(), memory_batch=1, gradients_over=gradients_over, accumulate=4)
    assert whole.step_count == parts.step_count
    assert whole.ended_at == parts.ended_at
    for a, b in zip(once, often, strict=True):
        assert a["tasks"] == b["tasks"]
        assert a["samples"] == b["samples"]
        for what in ("loss", "weight"):
            assert list(b[what].values()) == pytest.approx(list(a[what].values()), rel=1e-7, abs=1e-9)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-9)


def test_an_accumulating_run_resumes_to_the_same_bits() -> None:
    def fresh() -> Trainer:
        return trainer(
            stream("a", [0, 1], 40, epochs=2), stream("b", [2, 3], 44, start=1), accumulate=3, memory_batch=2
        )

    whole, first, second = fresh(), fresh(), fresh()
    whole.fit()
    first.fit(steps=4)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit()
    assert whole.ended_at == second.ended_at
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another accumulate"):
        trainer(stream("a", [0, 1]), stream("b", [2, 3]), memory_batch=2).load_state_dict(first.state_dict())


class CountedBackward:
    """Counts how often autograd runs."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        run = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

        def counted(*arguments: Any, **options: Any) -> Any:
            self.runs += 1
            return run(*arguments, **options)

        patch.setattr(torch.autograd, "_engine_run_backward", counted)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_backward_passes_of_a_step(weighting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    t = trainer(
        stream("a", [0, 1], 8), stream("b", [2, 3], 80), stream("c", [4, 5], 80), weighting=WEIGHTINGS[weighting](),
        strategy="loop",
    )  # fmt: skip
    t.fit(steps=3)
    counted = CountedBackward(monkeypatch)
    result = t.step()
    assert result is not None
    assert result.tasks == ("b", "c", MEMORY)
    needs = t.weighting.needs
    assert counted.runs == {"losses": 1, "gram": 3, "gradients": 3}[needs]
    assert (result.gram is None) == (needs == "losses")


def test_the_gramian_can_be_had_where_it_is_not_needed() -> None:
    """The record then has norms and cosines; the step is the same."""
    logs = Log(), Log()
    runs = [
        trainer(stream("a", [0, 1]), stream("b", [2, 3]), gramian=gramian, callbacks=[log], weighting=DWA(period=1))
        for gramian, log in zip(("needed", "always"), logs, strict=True)
    ]
    for t in runs:
        t.fit()
    for without, having in zip(*(log.records for log in logs), strict=True):
        assert set(having) - set(without) == {"norm", "descent", "share", "cosine", "conflict", "similarity"}
        assert list(having["norm"]) == having["tasks"]
        assert having["cosine"][0][0] == pytest.approx(1)
    for a, b in zip(*(t.model.parameters() for t in runs), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_famo_sees_the_same_batches_and_draws_after_the_update() -> None:
    """The second forward pass repeats the dropout masks, and leaves statistics and draws as one pass would."""
    seen: list[Tensor] = []

    class Watched(FAMO):
        def after_update(self, losses: Tensor, tasks: Any) -> None:
            seen.append(losses)
            super().after_update(losses, tasks)

    def run(weighting: Weighting) -> Trainer:
        torch.manual_seed(0)
        backbone = nn.Sequential(MLP(6, [8]), nn.BatchNorm1d(8), nn.Dropout(0.5))
        t = Trainer(ContinualModel(backbone, 8), optimizer=lambda p: torch.optim.SGD(p, lr=0.0), weighting=weighting)
        t.add(stream("a", [0, 1]))
        t.add(stream("b", [2, 3]))
        return t

    plain = run(Mean())
    expected = [plain.step() for _ in range(3)]
    t = run(Watched())
    for other in expected:
        result = t.step()
        assert result is not None
        assert other is not None
        assert torch.equal(result.losses, seen[-1])  # nothing has moved at rate 0
        assert torch.equal(result.losses, other.losses)
    for a, b in zip(t.model.buffers(), plain.model.buffers(), strict=True):
        assert torch.equal(a, b)


def test_famo_that_learns_from_the_next_step_makes_no_second_forward_pass() -> None:
    def passes(weighting: Weighting) -> int:
        t = trainer(stream("a", [0, 1]), stream("b", [2, 3], start=2), weighting=weighting)
        calls: list[int] = []
        t.model.backbone.register_forward_hook(lambda *_: calls.append(1))
        t.fit(steps=5)
        return len(calls)

    plain = passes(Mean())
    assert passes(FAMO(second_loss="next step")) == plain
    assert passes(FAMO()) > plain


# ---- clipping


@pytest.mark.parametrize("weighting", ["mean", "emgd"])
@pytest.mark.parametrize("gradients_over", ["backbone", "all"])
def test_the_gradient_is_shortened_as_a_whole(weighting: str, gradients_over: str) -> None:
    def gradients(clip: float | None) -> list[Tensor]:
        t = trainer(
            stream("a", [0, 1]), stream("b", [2, 3]), weighting=WEIGHTINGS[weighting](), clip=clip,
            gradients_over=gradients_over,
        )  # fmt: skip
        t.step()
        return [p.grad for p in t.model.parameters() if p.grad is not None]

    free = gradients(None)
    length = float(torch.cat([g.flatten() for g in free]).norm())
    short = gradients(length / 3)
    assert float(torch.cat([g.flatten() for g in short]).norm()) == pytest.approx(length / 3, rel=1e-5)
    for a, b in zip(free, short, strict=True):
        assert torch.allclose(a / 3, b, rtol=1e-5, atol=1e-8)
    for a, b in zip(free, gradients(length * 2), strict=True):
        assert torch.equal(a, b)


# ---- precision


@pytest.mark.parametrize(("strategy", "tolerance"), [("loop", 1e-6), ("auto", 2**-6), ("lowmem", 2**-6)])
def test_bf16_is_the_loop_under_autocast(strategy: str, tolerance: float) -> None:
    """Against the gradients written out: the forward passes under autocast, everything else in float32.

    The loop rounds every gradient to bfloat16 on its way, 2^-9 each; the other strategies need not.
    """
    t = trainer(stream("a", [0, 1]), stream("b", [2, 3]), weighting=MGDA(), precision="bf16", strategy=strategy)
    model = copy.deepcopy(t.model)
    batches = {task: s.peek() for task, s in t.streams.items()}
    rows = []
    for task, batch in batches.items():
        assert batch is not None
        model.add_task(task, t.streams[task].classes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[0], task)
        assert logits.dtype == torch.bfloat16
        position = torch.tensor([t.streams[task].classes.index(int(c)) for c in batch[1]])
        loss = nn.functional.cross_entropy(logits.float(), position)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.shared_parameters())]))
    assert all(row.dtype == torch.float32 for row in rows)
    result = t.step()
    assert result is not None
    assert result.gram is not None
    expected = torch.stack(rows).double() @ torch.stack(rows).double().T
    scale = float(expected.diagonal().min())
    assert torch.allclose(result.gram, expected, rtol=tolerance, atol=tolerance * scale)
    assert all(p.dtype == torch.float32 for p in t.model.parameters())
    full = trainer(stream("a", [0, 1]), stream("b", [2, 3]), weighting=MGDA()).step()
    assert full is not None
    assert full.gram is not None
    assert not torch.allclose(result.gram, full.gram, rtol=1e-4)  # it was bfloat16 that ran


@pytest.mark.parametrize("weighting", ["mean", "emgd"])
def test_bf16_learns_with_memory_edit_and_accumulation(weighting: str) -> None:
    streams = [stream("a", [0, 1], 200), stream("b", [2, 3], 200, start=10)]
    options = {"precision": "bf16", "edit": GradientEdit(0.01), "accumulate": 2}
    t = trainer(*streams, weighting=WEIGHTINGS[weighting](), **options)
    t.fit()
    assert min(t.history[-1]["accuracy"].values()) > 0.8


# ---- frozen parameters


def test_frozen_parameters_rest_and_released_ones_go_on() -> None:
    def frozen_layer(t: Trainer) -> nn.Parameter:
        return t.model.shared_parameters()[0]

    t = trainer(
        stream("a", [0, 1], 80), stream("b", [2, 3], 80), optimizer=lambda p: torch.optim.Adam(p, weight_decay=0.1)
    )
    first = frozen_layer(t)
    first.requires_grad_(False)
    before = first.clone()
    t.fit(steps=2)
    assert torch.equal(first, before)
    first.requires_grad_()
    t.fit(steps=2)
    moved = first.clone()
    assert not torch.equal(moved, before)
    first.requires_grad_(False)
    head = t.model.heads[0].weight.requires_grad_(False)
    resting = head.clone()
    t.fit(steps=2)  # Adam's momentum and an old gradient must not carry them on
    assert torch.equal(first, moved)
    assert torch.equal(head, resting)


def test_a_backbone_that_is_frozen_altogether_is_refused_before_anything_changes() -> None:
    t = trainer(stream("a", [0, 1]))
    t.step()
    t.model.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        t.step()
    assert t.step_count == 1


class TwoPaths(nn.Module):
    """Samples whose first feature is large go through one layer, the others through another."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.paths[0](x) if x[0, 0] > 0.5 else self.paths[1](x)
        return out


@pytest.mark.parametrize("weighting", ["mean", "emgd"])
def test_parameters_that_some_tasks_do_not_touch(weighting: str) -> None:
    t = Trainer(
        ContinualModel(TwoPaths(), 4), optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        weighting=WEIGHTINGS[weighting](), strategy="loop", gramian="always",
    )  # fmt: skip
    for task, value in (("high", 1.0), ("low", 0.0)):
        x = torch.rand(4, 6)
        x[:, 0] = value
        t.add(Stream(task, [(x, torch.arange(4) % 2)], [0, 1]))
    before = copy.deepcopy(t.model.backbone)
    result = t.step()
    assert result is not None
    assert result.gram is not None
    assert result.gram[0, 1] == 0
    changed = [not torch.equal(a.weight, b.weight) for a, b in zip(before.paths, t.model.backbone.paths, strict=True)]
    assert changed == [True, True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"clip": 0.0}, "clip, a norm, above 0"),
        ({"precision": "fp8"}, "precision 'full' or 'bf16'"),
        ({"gramian": "never"}, "gramian 'needed' or 'always'"),
        ({"strategy": "guess"}, "strategy 'auto' or"),
    ],
)
def test_unknown_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer(**arguments)
