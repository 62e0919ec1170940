"""One network that grows: what finished tasks use stays as it is to the bit."""

import copy

import pytest
import torch
from torch import nn

from pcl import ContinualModel, GrowingModel
from pcl.models.growth.choice import Budget
from pcl.models.growth.firefly import Firefly
from pcl.models.growth.locks import locks_of
from pcl.models.growth.whole import Whole
from tests.models.growing_cases import CLASSES, KINDS, backbone, grow, growing, logits, samples, train


def begin(model: GrowingModel, *tasks: str) -> None:
    for task in tasks:
        model.add_task(task, CLASSES[task])


def locked(model: GrowingModel) -> dict[str, torch.Tensor]:
    """Every tensor, with NaN where it is not locked."""
    return {
        f"{name}.{tensor}": torch.where(lock.locked, getattr(module, tensor).detach(), torch.nan)
        for name, module in model.named_modules()
        for tensor, lock in locks_of(module).items()
    }


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
@pytest.mark.parametrize("kind", KINDS)
def test_finished_tasks_keep_their_bits_through_growth_and_later_training(kind: str, optimizer: str) -> None:
    model = growing(kind)
    begin(model, "a")
    state = train(model, "a", kind=optimizer)
    grow(model, "a", optimizer=state)
    train(model, "a", kind=optimizer)
    model.task_ended("a")
    before, entries = logits(model, "a"), locked(model)
    begin(model, "b")
    state = train(model, "b", kind=optimizer)
    grow(model, "b", optimizer=state)
    train(model, "b", kind=optimizer)
    model.task_ended("b")
    of_b = logits(model, "b")
    begin(model, "c")
    grow(model, "c", optimizer=train(model, "c", kind=optimizer))
    train(model, "c", kind=optimizer)
    assert torch.equal(logits(model, "a"), before)
    assert torch.equal(logits(model, "b"), of_b)
    assert any(width > old for width, old in zip(model.widths.values(), growing(kind).widths.values(), strict=True))
    after = locked(model)
    for name, then in entries.items():  # old neurons stay in their places
        now = after[name][tuple(slice(0, size) for size in then.shape)]
        assert torch.equal(now[~then.isnan()], then[~then.isnan()]), name
        assert not then.isnan().all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_of_a_task_is_what_its_masks_leave_of_the_whole(kind: str) -> None:
    model = growing(kind, torch.float64)
    begin(model, "a")
    model.task_ended("a")
    begin(model, "b")
    for group in model.widths:  # drop some of the neurons that b could use
        score = model.masks_of("b").scores[list(model.widths).index(group)]
        score.data[::3] = -1.0
    grow(model, "b")
    x = samples("b", dtype=torch.float64)[0]
    with torch.no_grad():
        model.eval()
        torch.testing.assert_close(model.task_network("b")(x), model(x, "b"), rtol=1e-12, atol=1e-12)
        whole = super(GrowingModel, model).forward(x, "a")
        torch.testing.assert_close(whole, model(x, "a"), rtol=1e-12, atol=1e-12)
    network = model.task_network("b")
    assert not any(locks_of(module) for module in network.modules())
    assert sum(p.numel() for p in network.parameters()) < model.size()


def test_the_network_of_a_task_leaves_the_model_alone() -> None:
    model = growing("conv")
    begin(model, "a")
    train(model, "a", 2)
    before = copy.deepcopy(model.state_dict())
    network = model.task_network("a")
    nn.init.zeros_(next(network.parameters()))
    train(copy.deepcopy(model), "a", 2)
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if isinstance(before[k], torch.Tensor))


def test_locked_entries_have_no_gradient_and_free_ones_have_theirs() -> None:
    model = growing("mlp")
    begin(model, "a")
    model.task_ended("a")
    begin(model, "b")
    grow(model, "b")
    layer = model.backbone[1]
    lock, original = locks_of(layer)["weight"], layer.parametrizations.weight.original
    (gradient,) = torch.autograd.grad(model.losses(*samples("b"), "b").mean(), [original])
    assert lock.locked.any()
    assert gradient[lock.locked].count_nonzero() == 0
    assert gradient[~lock.locked].count_nonzero() > 0


def test_statistics_of_locked_and_of_unused_channels_rest_while_others_move() -> None:
    model = growing("conv")
    begin(model, "a")
    train(model, "a", 3)
    model.task_ended("a")
    begin(model, "b", "c")
    grow(model, "b")  # its new channels are none of c's
    norm = model.backbone[1]
    settled, own = model.used("backbone.0"), model.masks_of("b").on("backbone.0") & ~model.used("backbone.0")
    assert own.any()
    before = norm.running_mean.clone()
    train(model, "c", 2)
    assert torch.equal(norm.running_mean[settled | own], before[settled | own])
    train(model, "b", 2)
    assert torch.equal(norm.running_mean[settled], before[settled])
    assert not torch.equal(norm.running_mean[own], before[own])


def test_statistics_that_all_tasks_share_rest_once_one_has_ended() -> None:
    layers = [nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 6), nn.ReLU()]
    model = GrowingModel(nn.Sequential(*layers), 6, torch.rand(1, 1, 6, 6))
    begin(model, "a", "b")
    first = layers[0].running_mean.clone()  # type: ignore[operator, union-attr]
    train(model, "a", 3)
    before, said = layers[0].running_mean.clone(), logits(model, "a")  # type: ignore[operator, union-attr]
    assert not torch.equal(before, first)
    model.task_ended("a")
    train(model, "b", 3)
    assert torch.equal(layers[0].running_mean, before)  # type: ignore[arg-type]
    torch.testing.assert_close(logits(model, "a"), said)


def test_a_free_network_is_normalised_as_any_other() -> None:
    plain, model = ContinualModel(backbone("conv"), 6), growing("conv")
    plain.add_task("a", CLASSES["a"])
    begin(model, "a")
    x, y = samples("a")
    assert torch.equal(plain.losses(x, y, "a"), model.losses(x, y, "a"))
    assert torch.equal(plain.backbone[1].running_var, model.backbone[1].running_var)


def test_a_short_task_of_noise_drops_no_neuron() -> None:
    model = growing()
    begin(model, "a")
    model.task_ended("a")
    begin(model, "b")
    optimizer = torch.optim.Adam(model.masks_of("b").parameters(), lr=0.005)
    for i in range(40):
        x, y = samples("b", seed=i)
        optimizer.zero_grad()
        model.losses(x, y[torch.randperm(len(y))], "b").mean().backward()
        optimizer.step()
    assert all(model.masks_of("b").on(group).all() for group in model.widths)


def test_masks_keep_useful_neurons_and_drop_noise() -> None:
    model = GrowingModel(nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()), 4, torch.zeros(1, 4), mask_start=0.05)
    with torch.no_grad():
        model.backbone[0].parametrizations.weight.original.copy_(torch.eye(4))
    model.add_task("old", [0, 1])
    model.task_ended("old")
    model.add_task("new", [2, 3])
    head = model.heads[1]
    with torch.no_grad():  # the first two neurons tell the classes, the others are noise that the head listens to
        head.parametrizations.weight.original.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]]))
        head.parametrizations.bias.original.zero_()
    masks = model.masks_of("new")
    optimizer = torch.optim.Adam(masks.parameters(), lr=0.01)
    draws = torch.Generator().manual_seed(0)
    for _ in range(60):
        y = torch.randint(0, 2, (64,), generator=draws)
        signal = torch.nn.functional.one_hot(y, 2) * 2.0
        x = torch.cat([signal, 4 * torch.rand(64, 2, generator=draws)], dim=1)
        optimizer.zero_grad()
        model.losses(x, y + 2, "new").mean().backward()
        optimizer.step()
    assert masks.on("backbone.0").tolist() == [True, True, False, False]
    assert model.masks_of("old").on("backbone.0").all()


def test_a_mask_never_loses_all_neurons_of_a_group() -> None:
    model = growing()
    begin(model, "a")
    model.task_ended("a")
    begin(model, "b")
    score = model.masks_of("b").scores[0]
    score.data = torch.linspace(-2.0, -1.0, len(score))
    assert model.masks_of("b").on("backbone.1").nonzero().tolist() == [[len(score) - 1]]
    assert logits(model, "b").isfinite().all()


def test_samples_of_several_tasks_go_each_through_their_own_neurons() -> None:
    model = growing("residual", torch.float64)
    begin(model, "a", "b")
    grow(model, "a")
    model.eval()
    (x, y), (u, v) = samples("a", 6, dtype=torch.float64), samples("b", 6, seed=1, dtype=torch.float64)
    mixed = model.mixed_losses(torch.cat([x, u]), torch.cat([y, v]), torch.arange(2).repeat_interleave(6), ("a", "b"))
    apart = torch.cat([model.losses(x, y, "a"), model.losses(u, v, "b")])
    torch.testing.assert_close(mixed, apart, rtol=1e-12, atol=1e-12)


def test_growth_of_one_task_leaves_other_running_ones_alone_where_nothing_splits() -> None:
    model = growing("conv", torch.float64)
    begin(model, "a")
    model.task_ended("a")  # so that neurons are copied and none splits
    begin(model, "b", "c")
    before = logits(model, "c")
    grow(model, "b")
    torch.testing.assert_close(logits(model, "c"), before, rtol=1e-12, atol=1e-12)
    for group, width in model.widths.items():
        new = torch.arange(width) >= growing("conv").widths[group]
        assert not model.masks_of("c").on(group)[new].any()
        assert model.masks_of("b").on(group)[new].all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_step_preserves_what_all_tasks_compute(kind: str) -> None:
    model = growing(kind, torch.float64)
    begin(model, "a")
    model.task_ended("a")
    begin(model, "b", "c")
    grow(model, "b")
    model.eval()
    before = {task: logits(model, task) for task in model.tasks}
    batches = {task: [samples(task, dtype=torch.float64)] for task in ("b", "c")}
    found = model.grow(Firefly(step=1e-7, new=2, steps=2), batches, Budget(neurons=8))
    assert sum(gain.gained() for gain in found.plan.values()) > 0
    assert torch.equal(logits(model, "a"), before["a"])
    for task in ("b", "c"):
        torch.testing.assert_close(logits(model, task), before[task], rtol=0, atol=1e-5)


def test_a_copy_takes_the_place_of_the_neuron_for_those_that_grow() -> None:
    model = growing()
    begin(model, "a")
    model.task_ended("a")
    begin(model, "b", "c")
    found = model.grow(Firefly(new=1, steps=3), {"b": [samples("b")]}, Budget(neurons=9))
    copies = {name: gain.copied for name, gain in found.plan.items() if len(gain.copied)}
    assert copies
    for group, copied in copies.items():
        m = growing().widths[group]
        assert not model.masks_of("b").on(group)[copied].any()
        assert model.masks_of("b").on(group)[m : m + len(copied)].all()
        assert model.masks_of("c").on(group)[copied].all()
        assert not model.masks_of("b").learns(group)[copied].any()


def test_weights_say_whose_loss_counts() -> None:
    def chosen(weights: dict[str, float]) -> dict[str, torch.Tensor]:
        model = growing()
        begin(model, "a", "b")
        batches = {"a": [samples("a")], "b": [samples("b")]}
        return model.grow(Firefly(new=3, steps=4), batches, Budget(neurons=4), weights=weights).scores

    both = chosen({"a": 0.5, "b": 0.5})
    only_a, only_b = chosen({"a": 1.0, "b": 0.0}), chosen({"a": 0.0, "b": 1.0})
    for group in both:
        assert not torch.allclose(only_a[group][1], only_b[group][1])
    first = next(iter(both))
    assert not torch.allclose(both[first][1], only_a[first][1])


def test_a_grown_state_loads_into_a_model_that_is_still_small() -> None:
    model = growing("residual")
    begin(model, "a")
    grow(model, "a", optimizer=train(model, "a", 3))
    model.task_ended("a")
    begin(model, "b")
    grow(model, "b")
    small = growing("residual")
    begin(small, "a", "b")
    small.load_state_dict(copy.deepcopy(model.state_dict()))
    assert small.widths == model.widths
    assert small.size() == model.size()
    assert [m.extra_repr() for m in small.backbone.modules()] == [m.extra_repr() for m in model.backbone.modules()]
    for task in ("a", "b"):
        assert torch.equal(logits(small, task), logits(model, task))
    grow(small, "b")  # and it goes on
    grow(model, "b")
    assert torch.equal(logits(small, "b"), logits(model, "b"))
    other = growing("residual")
    begin(other, "a")
    with pytest.raises(ValueError, match=r"tasks \['a', 'b'\], this one has \['a'\]"):
        other.load_state_dict(model.state_dict())


def test_a_layer_norm_ties_its_channels() -> None:
    layers = [nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU()]
    model = GrowingModel(nn.Sequential(*layers), 6, torch.rand(1, 1, 6, 6))
    assert "LayerNorm" in (model.groups["backbone.1"].fixed or "")
    begin(model, "a")
    grow(model, "a")
    model.task_ended("a")
    before = logits(model, "a")
    begin(model, "b")
    train(model, "b")
    assert torch.equal(logits(model, "a"), before)
    assert model.widths["backbone.1"] == 8
    assert model.widths["backbone.4"] > 6


def test_heads_are_readers_of_the_features() -> None:
    model = growing()
    begin(model, "a", "b")
    grow(model, "a")
    assert model.features == model.widths["backbone.3"]
    assert all(head.weight.shape == (2, model.features) for head in model.heads)
    whole = Whole(model.backbone, model.heads)
    assert [tuple(out.shape) for out in whole(samples("a")[0])] == [(16, 2), (16, 2)]


def test_what_cannot_grow_is_refused() -> None:
    make = {"backbone": backbone("mlp"), "features": 6, "example": torch.rand(1, 1, 6, 6)}
    with pytest.raises(ValueError, match="setting: expected 'task', got 'class'"):
        GrowingModel(**make, setting="class")
    with pytest.raises(ValueError, match="head: expected 'linear' or 'sigmoid'"):
        GrowingModel(**make, head="cosine")
    with pytest.raises(ValueError, match="mask_start"):
        GrowingModel(**make, mask_start=0.0)
    bound = nn.utils.parametrizations.weight_norm(nn.Linear(36, 6))
    with pytest.raises(ValueError, match="parametrized layers"):
        GrowingModel(nn.Sequential(nn.Flatten(), bound), 6, make["example"])
    softened = nn.Sequential(nn.Flatten(), nn.Linear(36, 6), nn.Softmax(dim=1))
    with pytest.raises(ValueError, match=r"no width of the backbone can grow: .*Softmax"):
        GrowingModel(softened, 6, make["example"])


def test_growing_says_what_it_was_asked_wrongly() -> None:
    model = growing()
    begin(model, "a", "b")
    model.task_ended("a")
    x, y = samples("b")
    with pytest.raises(ValueError, match="task 'a' does not run"):
        model.grow(Firefly(), {"a": [(x, y)]}, Budget(neurons=1))
    with pytest.raises(ValueError, match="at least one task and a batch"):
        model.grow(Firefly(), {"b": []}, Budget(neurons=1))
    with pytest.raises(ValueError, match=r"weights of \['b'\], got some of \['a'\]"):
        model.grow(Firefly(), {"b": [(x, y)]}, Budget(neurons=1), weights={"a": 1.0})
    for given in ((Firefly(layers=2), Budget(neurons=1)), (Firefly(), Budget(layers=1))):
        with pytest.raises(ValueError, match="expected no new layers"):
            model.grow(given[0], {"b": [(x, y)]}, given[1])
    with pytest.raises(TypeError, match="samples with their task"):
        model.encode(x)
    with pytest.raises(ValueError, match="no task is called 'z'; there are"):
        model(x, "z")
    model.task_ended("a")  # twice is once
    assert model.running == ("b",)


@pytest.mark.parametrize("kind", ["conv", "residual"])
def test_losses_of_several_tasks_have_one_backward(kind: str) -> None:
    """Statistics move in the pass of b, in which some rest, before the backward of the pass of a, in which none do."""
    model = growing(kind, torch.float64)
    begin(model, "a", "b")
    grow(model, "a")
    model.train()
    parameters = model.shared_parameters()
    state = copy.deepcopy(model.state_dict())
    losses = [model.losses(*samples(task, dtype=torch.float64), task).mean() for task in ("a", "b")]
    found = torch.autograd.grad(sum(losses), parameters, materialize_grads=True)  # type: ignore[arg-type]
    model.load_state_dict(state)
    for task in ("a", "b"):
        loss = model.losses(*samples(task, dtype=torch.float64), task).mean()
        apart = torch.autograd.grad(loss, parameters, materialize_grads=True)
        found = tuple(g - h for g, h in zip(found, apart, strict=True))
    assert all(g.abs().max() < 1e-12 for g in found)


def test_scores_of_neurons_that_a_task_begins_to_learn_begin_at_the_start() -> None:
    """Whatever weight decay has done to them while they meant nothing."""
    model = growing()
    begin(model, "a", "b")
    grow(model, "a")
    train(model, "b")
    assert all((scores.detach() < model.mask_start).all() for scores in model.masks_of("b").scores)
    model.task_ended("a")
    for group, scores in zip(model.widths, model.masks_of("b").scores, strict=True):
        learns = model.masks_of("b").learns(group)
        assert learns.any()
        assert (scores[learns] == model.mask_start).all()
