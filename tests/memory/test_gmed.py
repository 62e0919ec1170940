"""GMED's edit, its hindsight ablation and random edits, against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcl import MLP, ClassMemory, ContinualModel, GMEDEdit, RandomEdit, Stream, Trainer
from pcl.gradients.sample_distance import Rows
from pcl.memory.edit import Edit, Steps


def setup() -> tuple[ContinualModel, Any, Tensor, list[nn.Parameter], list[Tensor | None]]:
    torch.manual_seed(2)
    model = ContinualModel(MLP(6, [7, 4]).double(), 4, "class")
    model.add_task("a", [0, 1, 2])
    x, y = torch.rand(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])

    def losses(x: Tensor, rows: Rows) -> Tensor:
        return model.losses(x, y[rows], "a")

    shared = model.shared_parameters()
    direction: list[Tensor | None] = [torch.randn_like(p) for p in shared]
    direction[1] = None
    return model, losses, x, shared, direction


def slope(losses: Any, x: Tensor, reduce: str = "sum") -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(getattr(losses(x, slice(None)), reduce)(), x)[0]


def slope_after(losses: Any, x: Tensor, shared: Any, direction: Any, lr: float, reduce: str = "sum") -> Tensor:
    """grad_x at theta - lr d, by a model that has really moved, and then back."""
    before = [p.detach().clone() for p in shared]
    with torch.no_grad():
        for p, d in zip(shared, direction, strict=True):
            p -= 0 if d is None else lr * d
    found = slope(losses, x, reduce)
    with torch.no_grad():
        for p, b in zip(shared, before, strict=True):
            p.copy_(b)
    return found


@pytest.mark.parametrize(("variant", "sign"), [("paper", -1), ("code", 1)])
@pytest.mark.parametrize("mean_loss", [False, True])
def test_gmed_is_equation_6(variant: Any, sign: int, mean_loss: bool) -> None:
    model, losses, x, shared, direction = setup()
    reduce = "mean" if mean_loss else "sum"
    later, now = slope_after(losses, x, shared, direction, 0.3, reduce), slope(losses, x, reduce)
    expected = x + 0.7 * (later - now + sign * 0.2 * now)
    edit = GMEDEdit(0.7, beta=0.2, lr=0.3, variant=variant, mean_loss=mean_loss, valid=None)
    assert torch.allclose(edit(model, losses, x, shared, direction), expected, rtol=1e-12)
    assert not torch.allclose(expected, x)


def test_gmed_raises_the_forgetting_of_the_step_ahead() -> None:
    model, losses, x, shared, direction = setup()

    def forgetting(x: Tensor) -> Tensor:
        before = [p.detach().clone() for p in shared]
        now = losses(x, slice(None))
        with torch.no_grad():
            for p, d in zip(shared, direction, strict=True):
                p -= 0 if d is None else 0.1 * d
        later = losses(x, slice(None))
        with torch.no_grad():
            for p, b in zip(shared, before, strict=True):
                p.copy_(b)
        return (later - now).detach()

    edited = GMEDEdit(1e-3, beta=0.0, lr=0.1, valid=None)(model, losses, x, shared, direction)
    assert (forgetting(edited) >= forgetting(x)).all()
    assert (forgetting(edited) > forgetting(x)).any()


def test_hindsight_looks_ahead_along_the_memory() -> None:
    model, losses, x, shared, direction = setup()
    own = torch.autograd.grad(losses(x, slice(None)).mean(), shared)
    expected = GMEDEdit(0.7, lr=0.3)(model, losses, x, shared, own)
    found = GMEDEdit(0.7, lr=0.3, lookahead="memory")(model, losses, x, shared, direction)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("lookahead", ["direction", "memory"])
def test_parameters_and_modes_are_as_before_also_after_an_error(lookahead: Any) -> None:
    model, losses, x, shared, direction = setup()
    model.train()
    before = [p.detach().clone() for p in shared]
    GMEDEdit(0.7, lookahead=lookahead, steps=2)(model, losses, x, shared, direction)
    calls = []

    def failing(x: Tensor, rows: Rows) -> Tensor:
        calls.append(1)
        if len(calls) == 2 + (lookahead == "memory"):
            raise ArithmeticError
        return losses(x, rows)

    with pytest.raises(ArithmeticError):
        GMEDEdit(0.7, lookahead=lookahead)(model, failing, x, shared, direction)
    assert all(torch.equal(p, b) for p, b in zip(shared, before, strict=True))
    assert all(p.grad is None for p in shared)
    assert model.training


def test_random_edits_have_their_length_and_follow_their_seed() -> None:
    model, losses, x, shared, direction = setup()
    edits = [RandomEdit(0.25, seed=seed, valid=None) for seed in (1, 1, 2)]
    one, same, other = (edit(model, losses, x, shared, direction) for edit in edits)
    assert torch.allclose((one - x).norm(dim=1), torch.full((5,), 0.25, dtype=torch.float64))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    scaled = RandomEdit(0.25, seed=1, valid=None, std=0.5)(model, losses, x, shared, direction)
    assert torch.allclose(scaled - x, (one - x) / 0.5)


def test_a_random_edit_goes_on_where_it_was_saved() -> None:
    model, losses, x, shared, direction = setup()
    edit, resumed = RandomEdit(0.1), RandomEdit(0.1, seed=9)
    edit(model, losses, x, shared, direction)
    resumed.load_state_dict(edit.state_dict())
    assert torch.equal(edit(model, losses, x, shared, direction), resumed(model, losses, x, shared, direction))


EDITS: dict[str, Any] = {
    "gmed": lambda: GMEDEdit(0.1, lr=0.1),
    "hindsight": lambda: GMEDEdit(0.1, lr=0.1, lookahead="memory"),
    "random": lambda: RandomEdit(0.1),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_stay_in_range_and_pass_empty_batches(name: str) -> None:
    model, losses, x, shared, direction = setup()
    edited = EDITS[name]()(model, losses, 3 * x - 1, shared, direction)
    assert edited.min() == 0
    assert edited.max() == 1
    assert EDITS[name]()(model, losses, x[:0], shared, direction).shape == (0, 6)


def trainer(edit: Edit) -> Trainer:
    torch.manual_seed(0)
    t = Trainer(
        ContinualModel(MLP(6, [8]), 8),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        memory=ClassMemory(3),
        edit=edit,
        memory_batch=4,
    )
    for task, classes, count in (("a", [0, 1], 4), ("b", [2, 3], 12)):
        draws = torch.Generator().manual_seed(len(t.streams))
        x = torch.rand(count, 5, 6, generator=draws)
        y = torch.tensor(classes)[torch.randint(2, (count, 5), generator=draws)]
        t.add(Stream(task, list(zip(x, y, strict=True)), classes=classes))
    return t


@pytest.mark.parametrize("name", EDITS)
def test_a_resumed_training_gives_the_same_bits(name: str) -> None:
    whole, first, second = (trainer(EDITS[name]()) for _ in range(3))
    whole.fit(10)
    first.fit(7)
    second.load_state_dict(first.state_dict())
    second.fit(3)
    assert whole.memory is not None
    assert second.memory is not None
    assert whole.memory.mean_drift() > 0
    assert torch.equal(whole.memory.x, second.memory.x)
    assert torch.equal(whole.memory.original, second.memory.original)
    plain = trainer(EDITS[name]())
    plain.edit = None
    plain.fit(10)
    assert plain.memory is not None
    assert torch.equal(whole.memory.y, plain.memory.y)
    assert torch.equal(whole.memory.original, plain.memory.x)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"lr": 0.0}, "lr > 0"),
        ({"beta": -1.0}, "beta >= 0"),
        ({"lookahead": "past"}, "lookahead"),
        ({"variant": "mine"}, "variant"),
        ({"alpha": 0.0}, "alpha > 0"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        GMEDEdit(**{"alpha": 0.1, **options})


@pytest.mark.parametrize("valid", [None, (0.0, 1.0)])
def test_pixels_whose_step_is_not_finite_stay(valid: tuple[float, float] | None) -> None:
    x, slope = torch.full((2, 3), 0.5), torch.tensor([[1.0, torch.inf, 1.0], [torch.nan, 1.0, -torch.inf]])
    found = Steps(0.1, valid=valid).descend(x, lambda _: slope)
    assert torch.equal(found, torch.where(slope.isfinite(), x - 0.1 * slope, x))
