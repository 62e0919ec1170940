"""Loss terms: resuming, refusals, bad steps, replaying."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from loss_term_cases import TERMS, Pull, overlapping
from torch import Tensor, nn
from training_cases import everything, same, stream, trainer

from pcl import (
    EWC,
    MLP,
    SI,
    ClassMemory,
    ContinualModel,
    LossTerm,
    Mean,
    OnlineEWC,
    Trainer,
)
from pcl.gradients.result import Gradient
from pcl.training.cuda_graph import GraphedStep, check_capturable
from pcl.training.guard import Later


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@pytest.mark.parametrize("setting", ["task", "class"])
@pytest.mark.parametrize("terms", TERMS)
def test_a_resumed_run_gives_the_same_bits(terms: str, setting: str) -> None:
    whole = overlapping(loss_terms=TERMS[terms](), setting=setting)
    whole.fit()
    for stop in (0, 3, 9, 12, 20, 25):
        first, second = (overlapping(loss_terms=TERMS[terms](), setting=setting) for _ in range(2))
        first.fit(stop)
        with torch.no_grad():
            for p in second.model.parameters():
                p.zero_()  # all must come from the checkpoint
        second.load_state_dict(everything(first))
        assert same(everything(first), everything(second))
        second.fit()
        assert same(everything(whole), everything(second)), stop


@pytest.mark.parametrize(
    "other",
    [[], [EWC(2.0, samples=9)], [EWC(5.0, samples=8)], [OnlineEWC(5.0, samples=9)], [SI(1.0)]],
    ids=["none", "another strength", "other samples", "another kind", "si"],
)
def test_other_terms_are_refused(other: list[LossTerm]) -> None:
    first, second = overlapping(loss_terms=[EWC(5.0, samples=9)]), overlapping(loss_terms=other)
    first.fit(10)
    before = everything(second)
    with pytest.raises(ValueError, match="another loss terms"):
        second.load_state_dict(first.state_dict())
    assert same(before, everything(second))


@pytest.mark.parametrize("given", ["ewc", EWC, Mean()])
def test_what_is_no_term_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"expected loss terms, such as pcl.EWC\(100.0\)"):
        trainer(loss_terms=[given])


@pytest.mark.parametrize("terms", TERMS)
def test_pausing_changes_nothing_of_a_term(terms: str) -> None:
    t = overlapping(loss_terms=TERMS[terms]())
    t.fit(6)
    before = copy.deepcopy(t.loss_terms.state_dict())
    for s in t.streams.values():
        s.pause()
    assert t.step() is None
    assert same(before, t.loss_terms.state_dict())


class Moody(nn.Module):
    """Finite, or not."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mood = MLP(6, [8]), 1.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) * self.mood
        return out


def moody(terms: str) -> tuple[Trainer, Moody]:
    torch.manual_seed(0)
    backbone = Moody()
    t = Trainer(
        ContinualModel(backbone, 8), optimizer=lambda p: torch.optim.Adam(p, lr=0.02), memory=ClassMemory(2),
        loss_terms=TERMS[terms](),
    )  # fmt: skip
    for task, classes, n in (("a", [0, 1], 20), ("b", [2, 3], 160)):
        t.add(stream(task, classes, n))
    t.fit(8)
    return t, backbone


@pytest.mark.parametrize("terms", TERMS)
def test_a_step_that_raises_changes_nothing(terms: str) -> None:
    t, backbone = moody(terms)
    before = everything(t)
    backbone.mood = torch.inf
    with pytest.raises(FloatingPointError):
        t.step()
    assert same(before, everything(t))


@pytest.mark.parametrize("terms", TERMS)
def test_a_bad_step_on_a_gpu_moves_no_spring(terms: str) -> None:
    """What its guard does, on the CPU; samples that went by have been seen."""
    t, backbone = moody(terms)
    t._guard = Later(torch.device("cpu"))
    t.step()
    state = copy.deepcopy(t.loss_terms.state_dict())
    parameters = [p.detach().clone() for p in t.model.parameters()]
    backbone.mood = torch.inf
    t.step()
    backbone.mood = 1.0
    with pytest.raises(FloatingPointError, match="is not finite"):
        t.fit(2)
    assert same(parameters, [p.detach() for p in t.model.parameters()])
    for then, now in zip(state, t.loss_terms.state_dict(), strict=True):
        assert same({**then, "samples": None}, {**now, "samples": None})


def test_an_update_that_a_penalty_makes_infinite_is_refused() -> None:
    class Burst(Pull):
        def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
            return [torch.full_like(p, torch.inf) for p in parameters.values()]

    t = trainer(stream("a", [0, 1]), loss_terms=[Burst()])
    before = dict(copy.deepcopy(t.model.state_dict()))
    with pytest.raises(FloatingPointError, match="combined gradient"):
        t.step()
    assert same(before, {name: value for name, value in t.model.state_dict().items() if name in before})


# ---- CUDA graphs


@pytest.mark.parametrize("terms", TERMS)
def test_replayed_steps_are_the_plain_ones(terms: str) -> None:
    plain, other = (overlapping(loss_terms=TERMS[terms]()) for _ in range(2))
    captures: list[int] = []
    other._graph = GraphedStep(other, lambda function: captures.append(1) or function)  # type: ignore[func-returns-value]
    plain.fit()
    other.fit()
    assert len(captures) >= 4
    assert same(everything(plain), everything(other))


@pytest.mark.parametrize("terms", [name for name in TERMS if name != "ewc of heads too"])
def test_what_a_graph_touches_stays_where_it_is_until_a_task_ends(terms: str) -> None:
    """In the steps between, a replay would find every tensor of the state, but for the samples, at its address."""

    def addresses(state: Any) -> list[int]:
        if isinstance(state, Tensor):
            return [state.data_ptr()]
        if isinstance(state, dict):
            return [a for key, value in state.items() if key != "samples" for a in addresses(value)]
        return [a for value in state for a in addresses(value)] if isinstance(state, list) else []

    t = overlapping(loss_terms=TERMS[terms]())
    t.fit(11)
    before = addresses(t.loss_terms.state_dict())
    assert before
    t.fit(2)
    assert t.ended_at == {"a": 8}
    assert before == addresses(t.loss_terms.state_dict())


def test_a_term_that_cannot_be_captured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnTheHost(Pull):
        capturable = False

    t = trainer(loss_terms=[EWC(1.0), OnTheHost()])
    monkeypatch.setattr(Trainer, "device", torch.device("cuda"))
    with pytest.raises(ValueError, match="cannot capture the loss term OnTheHost"):
        check_capturable(t)
