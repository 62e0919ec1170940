"""Streams that never end: state carried from batch to batch."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training_cases import everything, same

from pcl import (
    DER,
    EMGD,
    FAMO,
    HAL,
    MLP,
    ClassMemory,
    ContinualModel,
    GradientEdit,
    LonghornBackbone,
    LonghornConfig,
    LwF,
    ReservoirMemory,
    SigmoidDistillation,
    Stream,
    Trainer,
    Windows,
    detach_state,
)
from pcl.memory.incoming import Incoming

ROWS, LENGTH = 3, 4


class Last(NamedTuple):
    hidden: Tensor
    nothing: None = None


class Recurrent(nn.Module):
    """A GRU as backbone; features are its last output, its state a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(2, 5, batch_first=True)

    def initial_state(self, batch: int) -> list[Last]:
        return [Last(torch.zeros(1, batch, 5))]

    def forward(self, x: Tensor, state: Any = None, return_state: bool = False) -> Any:
        out, last = self.cell(x, None if state is None else state[0].hidden)
        return (out[:, -1], [Last(last)]) if return_state else out[:, -1]


def signal(seed: int, batches: int = 8) -> Windows:
    """A random walk, labelled by whether it has risen since it began."""
    draws = torch.Generator().manual_seed(seed)
    steps = ROWS * LENGTH * batches
    x = torch.randn(steps, 2, generator=draws)
    return Windows(x, (x.cumsum(dim=0)[:, 0] > 0).long(), ROWS, LENGTH)


def longhorn() -> LonghornBackbone:
    return LonghornBackbone(LonghornConfig(width=5, depth=2, states=3), channels=2, pool="last")


Make = Callable[[], nn.Module]
every_backbone = pytest.mark.parametrize("backbone", [Recurrent, longhorn])


def model(carry: int | None = ROWS, backbone: Make = Recurrent) -> ContinualModel:
    torch.manual_seed(0)
    return ContinualModel(backbone(), 5, carry=carry)


def trainer(
    starts: dict[str, int], epochs: int = 1, carry: int | None = ROWS, backbone: Make = Recurrent, **arguments: Any
) -> Trainer:
    given: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.5)}
    made = Trainer(model(carry, backbone), **{**given, **arguments})
    for task, start in starts.items():
        source = signal(seed=ord(task))
        x, y = next(iter(source))
        made.add(Stream(task, source, [0, 1], start=start, epochs=epochs, test=(x, y)))
    return made


def state_of(t: Trainer, task: str) -> list[Tensor]:
    return [buffer.clone() for buffer in t.model.states[t.model.tasks.index(task)].buffers()]


@every_backbone
def test_training_is_truncated_backpropagation_in_one_long_pass(backbone: Make) -> None:
    """By hand: one sequence, the graph cut behind every window."""
    found = trainer({"a": 0}, epochs=2, backbone=backbone)
    by_hand = model(carry=None, backbone=backbone)
    by_hand.add_task("a", [0, 1])
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
    for _ in range(2):
        state = None
        for x, y in signal(seed=ord("a")):
            features, state = by_hand.backbone(x, state, return_state=True)
            state = detach_state(state)
            optimizer.zero_grad()
            F.cross_entropy(by_hand.logits(features, "a"), y).backward()
            optimizer.step()
    found.fit()
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, msg=name)
    without = trainer({"a": 0}, epochs=2, carry=None, backbone=backbone)
    without.fit()
    assert not torch.allclose(without.model.heads[0].weight, by_hand.heads[0].weight, atol=1e-3)


@every_backbone
def test_carried_windows_are_one_long_sequence(backbone: Make) -> None:
    m = model(backbone=backbone)
    m.add_task("a", [0, 1])
    batches = [x for x, _ in signal(seed=1)]
    features = [m.encode(m.window(x, "a")) for x in batches]
    for i, found in enumerate(features):
        torch.testing.assert_close(found, m.backbone(torch.cat(batches[: i + 1], dim=1)))


@pytest.mark.no_cover  # takes long, and goes no way that others do not
@every_backbone
@pytest.mark.parametrize("stop", [0, 1, 5, 9])
def test_a_resumed_run_gives_the_same_bits(stop: int, backbone: Make) -> None:
    def fresh() -> Trainer:
        return trainer(
            {"a": 0, "b": 3},
            backbone=backbone,
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
            weighting=EMGD("gmc"),
            memory=ClassMemory(2),
            edit=GradientEdit(0.1, valid=None),
            evaluate_every=2,
        )

    whole, first, second = fresh(), fresh(), fresh()
    whole.fit()
    first.fit(steps=stop)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.fit()
    assert same(everything(second), everything(whole))


def test_streams_do_not_mix() -> None:
    """With parameters that stay, a stream's state is what it is without the others, memory and evaluations."""
    still: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
    alone, mixed = trainer({"b": 0}, **still), trainer({"a": 0, "c": 2, "b": 4}, memory=ClassMemory(2), **still)
    mixed.evaluate_every = 1
    mixed.fit(steps=4)
    for _ in range(8):
        alone.step()
        mixed.step()
        assert same(state_of(alone, "b"), state_of(mixed, "b"))
    assert not same(state_of(mixed, "a"), state_of(mixed, "b"))
    assert mixed.memory is not None
    assert mixed.memory.names == ("a", "c")  # they have ended in the meantime and were rehearsed


def test_an_epoch_begins_with_an_empty_state() -> None:
    still: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
    t = trainer({"a": 0}, epochs=2, **still)
    t.fit(steps=1)
    after_first = state_of(t, "a")
    t.fit(steps=7)
    assert not same(state_of(t, "a"), after_first)
    t.fit(steps=1)
    assert same(state_of(t, "a"), after_first)


def test_an_epoch_begins_anew_also_behind_a_batch_that_was_skipped() -> None:
    still: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
    t, fresh = trainer({"a": 0}, epochs=2, **still), trainer({"a": 0}, **still)
    t.fit(steps=8)
    for stream in (t.streams["a"], fresh.streams["a"]):
        stream.upcoming(1)
        stream.advance()
    t.step()
    fresh.step()
    assert same(state_of(t, "a"), state_of(fresh, "a"))


def test_a_look_ahead_goes_on_from_the_state_that_is_carried() -> None:
    t = trainer({"a": 0}, optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    t.fit(steps=2)
    before = state_of(t, "a")
    incoming = Incoming(t.model, {"a": t.streams["a"].upcoming(1)})
    parameters, ahead = incoming.parameters, incoming.gradient
    assert same(state_of(t, "a"), before)
    old = [p.detach().clone() for p in parameters]
    t.step()
    for p, then, u in zip(parameters, old, ahead, strict=True):
        assert u is not None
        torch.testing.assert_close(then - p.detach(), u, rtol=1e-4, atol=1e-6)


def test_terms_that_know_nothing_of_the_state_are_refused_before_any_step() -> None:
    for term in (LwF(), DER(), HAL(), SigmoidDistillation(1.0)):
        with pytest.raises(ValueError, match=f"leave out {type(term).__name__} or `carry`"):
            trainer({"a": 0}, loss_terms=[term], memory=ReservoirMemory(5, logits=True))


def test_states_of_other_forms_are_detached() -> None:
    class Two(NamedTuple):
        a: Tensor
        b: Tensor | None

    x = torch.ones(1, requires_grad=True)
    found = detach_state({"s": [Two(x * 2, None), (x * 3,)]})
    assert isinstance(found["s"][0], Two)
    assert found["s"][0].b is None
    assert not found["s"][0].a.requires_grad
    assert not found["s"][1][0].requires_grad


def test_several_batches_in_a_step_follow_each_other() -> None:
    still: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
    one, two = trainer({"a": 0}, **still), trainer({"a": 0}, accumulate=2, **still)
    one.fit(steps=6)
    two.fit(steps=3)
    assert same(state_of(one, "a"), state_of(two, "a"))


def test_looking_back_does_not_move_the_state() -> None:
    """FAMO and measured descent run the step's windows once more, from where they began."""
    still: dict[str, Any] = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}
    plain, looking = trainer({"a": 0, "b": 0}, **still), trainer({"a": 0, "b": 0}, weighting=FAMO(), **still)
    looking.measure_descent = 1
    for _ in range(3):
        plain.step()
        result = looking.step()
        assert result is not None
        assert result.fall is not None
        assert result.fall.tolist() == [0.0, 0.0]
    assert same(state_of(plain, "a"), state_of(looking, "a"))


def test_looking_back_with_other_parameters_leaves_no_trace() -> None:
    """After an update the same windows end in another state, which is not the one to go on from."""
    plain, looking = trainer({"a": 0}), trainer({"a": 0}, measure_descent=1)
    for t in (plain, looking):
        t.fit(steps=3)
    assert same(everything(looking), everything(plain))


def test_a_step_that_fails_leaves_the_state() -> None:
    class Failing(EMGD):
        fails = False

        def __call__(self, *arguments: Any) -> Tensor:
            if self.fails:
                raise RuntimeError("no weights")
            return super().__call__(*arguments)

    weighting = Failing("gmc")
    t = trainer({"a": 0, "b": 0}, weighting=weighting)
    t.fit(steps=2)
    before, weighting.fails = everything(t), True
    with pytest.raises(RuntimeError, match="no weights"):
        t.step()
    assert same(everything(t), before)


def test_what_cannot_be_carried_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        model(carry=0)
    with pytest.raises(TypeError, match="MLP has no initial_state"):
        ContinualModel(MLP(4, [3]), 3, carry=2)
    t = trainer({"a": 0})
    t.add(Stream("ragged", [(torch.zeros(2, LENGTH, 2), torch.zeros(2, dtype=torch.int64))], [0, 1], start=1))
    t.step()
    before = state_of(t, "a")
    with pytest.raises(ValueError, match="windows of 3 parallel sequences, got 2"):
        t.step()
    assert same(state_of(t, "a"), before)


def test_a_run_with_another_number_of_rows_is_refused() -> None:
    first = trainer({"a": 0})
    first.fit(steps=2)
    with pytest.raises(ValueError, match="another carry"):
        trainer({"a": 0}, carry=None).load_state_dict(first.state_dict())


@pytest.mark.no_cover  # takes long, and goes no way that others do not
def test_what_lies_before_a_window_is_known() -> None:
    """The label is the last cue, +1 or -1, of which one step in 25 has one. Two windows of 10 steps in three have none;
    who sees the window alone guesses there, at a loss of 0.96^10 ln 2 = 0.46 on average."""

    def last_losses(carry: int | None) -> float:
        draws = torch.Generator().manual_seed(2)
        steps = 16 * 10 * 600
        sign = torch.randint(0, 2, (steps,), generator=draws) * 2.0 - 1
        cue = torch.where(torch.rand(steps, generator=draws) < 0.04, sign, 0.0)
        last = torch.where(cue != 0, torch.arange(steps), 0).cummax(dim=0).values
        torch.manual_seed(2)
        backbone = LonghornBackbone(LonghornConfig(width=16, depth=1), channels=1, pool="last")
        t = Trainer(ContinualModel(backbone, 16, carry=carry), optimizer=lambda p: torch.optim.Adam(p, lr=0.01))
        t.add(Stream("cues", Windows(cue[:, None], (cue[last] > 0).long(), 16, 10), [0, 1]))
        results = [t.step() for _ in range(600)]
        return float(torch.stack([r.losses[0] for r in results[-50:] if r is not None]).mean())

    assert last_losses(carry=16) < 0.3  # a half where it has learned nothing of it
    assert last_losses(carry=None) > 0.4
