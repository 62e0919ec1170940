"""One backward pass for all tasks, passes that add up, and shortened gradients: against the loop."""

import pytest
import torch
from torch import Tensor, nn

from pcl import task_gradients
from pcl.gradients.accumulated import accumulated
from pcl.gradients.clip import clipped
from pcl.gradients.summed import SummedLoss


class Case:
    """Three tasks on one backbone; a and b share a head, c has its own; b's batch is smaller."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        torch.manual_seed(3)
        self.model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).to(dtype)
        self.heads = [nn.Linear(4, 3).to(dtype), nn.Linear(4, 2).to(dtype)]
        self.inputs = {"a": torch.randn(6, 5, dtype=dtype), "b": torch.randn(2, 5, dtype=dtype)}
        self.inputs["c"] = torch.randn(4, 5, dtype=dtype)
        self.losses = {
            "a": lambda f: self.heads[0](f).square().mean(),
            "b": lambda f: self.heads[0](f).cos().sum(),
            "c": lambda f: self.heads[1](f).exp().mean(),
        }
        self.shared = list(self.model.parameters())
        self.own = [p for head in self.heads for p in head.parameters()]


def close(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    assert len(a) == len(b)
    return all(torch.allclose(x, y, rtol=1e-12, atol=1e-14) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]


WEIGHTS = torch.tensor([0.3, 0.0, 2.5], dtype=torch.float64)


@pytest.mark.parametrize("everything", [False, True])
def test_the_weighted_direction_of_one_backward_pass(everything: bool) -> None:
    """Heads apart get no weights; heads among the shared parameters get them."""
    case = Case()
    shared, own = (case.shared + case.own, []) if everything else (case.shared, case.own)
    loop = task_gradients(case.losses, shared, own, model=case.model, inputs=case.inputs, strategy="loop")
    found = SummedLoss(case.losses, shared, own, model=case.model, inputs=case.inputs)
    assert found.tasks == loop.tasks
    assert torch.equal(found.losses, loop.losses)
    assert close(found.combine(WEIGHTS), loop.combine(WEIGHTS))
    assert close(found.own, loop.own)
    assert not found.losses.requires_grad
    assert all(p.grad is None for p in shared)


def test_parameters_that_no_task_touches() -> None:
    case = Case()
    idle = nn.Parameter(torch.ones(2))
    found = SummedLoss(case.losses, [*case.shared, idle], case.own, model=case.model, inputs=case.inputs)
    direction = found.combine(WEIGHTS)
    assert direction[-1] is None
    assert all(d is not None for d in direction[:-1])


def test_weights_keep_their_digits_behind_a_model_in_bfloat16() -> None:
    """1.003 is 1 in bfloat16. The gradient of the features is in bfloat16 too, but its roundings differ."""
    parameter = torch.ones(4096, requires_grad=True)
    draws = 1 + torch.rand(4096, generator=torch.Generator().manual_seed(0))
    head = torch.ones((), requires_grad=True)

    def gradient(weight: float) -> Tensor:
        found = SummedLoss(
            {"a": lambda f: head * (f.float() * draws).sum()}, [parameter], [head],
            model=lambda x: (parameter * x).bfloat16(), inputs={"a": torch.ones(())},
        )  # fmt: skip
        (direction,) = found.combine(torch.tensor([weight], dtype=torch.float64))
        assert direction is not None
        return direction.double().sum()

    weight = 1.003
    assert float(torch.tensor(weight).bfloat16()) == 1.0
    assert abs(gradient(weight) / gradient(1.0) - weight) < 0.003 / 2  # a rounded weight would miss all of it


def test_passes_add_up() -> None:
    """Two passes, the second without task b, with the sum of their losses per task."""
    case = Case()
    second = {"a": torch.randn(3, 5, dtype=torch.float64), "c": torch.randn(5, 5, dtype=torch.float64)}
    calls = [(case.losses, case.inputs), ({t: case.losses[t] for t in second}, second)]
    asked: list[int] = []

    def passes():  # type: ignore[no-untyped-def]
        for i, (losses, inputs) in enumerate(calls):
            asked.append(i)
            yield task_gradients(losses, case.shared, case.own, model=case.model, inputs=inputs, strategy="loop")

    whole = {
        task: lambda task=task: sum(of[task](case.model(x[task])) for of, x in calls if task in of)  # type: ignore[misc]
        for task in case.losses
    }
    expected = task_gradients(whole, case.shared, case.own, strategy="loop")
    found = accumulated(passes())
    assert asked == [0, 1]
    assert found.tasks == expected.tasks
    assert torch.allclose(found.losses, expected.losses)
    assert torch.allclose(found.gramian(), expected.gramian(), rtol=1e-12)
    assert close(found.combine(WEIGHTS), expected.combine(WEIGHTS))
    assert close(found.own, expected.own)


def test_a_pass_may_touch_what_the_first_did_not() -> None:
    p, q = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))
    passes = [task_gradients({"a": loss}, [p, q]) for loss in (lambda: p**2, lambda: p * q, lambda: 3 * p)]
    (gradient,) = accumulated(passes).each()
    assert [float(g) for g in gradient] == [4 + 3 + 3, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [0.1, 3.0, 1e6])
def test_clipping_is_what_torch_does(norm: float) -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(7, 3), None, torch.randn(5)]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients if g is not None]
    for parameter, gradient in zip(parameters, [g for g in gradients if g is not None], strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, norm)
    found = clipped(gradients, norm)
    assert found[1] is None
    for parameter, gradient in zip(parameters, [found[0], found[2]], strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])  # the norm of the last is beyond float32
def test_what_cannot_be_shortened_is_nan(bad: float) -> None:
    (found,) = clipped([torch.tensor([1.0, bad])], 1.0)
    assert found is not None
    assert found.isnan().all()
    assert clipped([None], 1.0) == [None]
