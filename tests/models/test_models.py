"""Backbones and heads."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pcl import MLP, ContinualModel, Normalize, ResNet18


def model(setting: str = "task") -> ContinualModel:
    torch.manual_seed(0)
    made = ContinualModel(MLP(4, [8, 6]), 6, setting, seed=1)  # type: ignore[arg-type]
    made.add_task("a", [3, 5])
    made.add_task("b", [5, 0, 9])
    return made


def test_task_setting_only_a_tasks_own_classes_compete() -> None:
    m = model("task")
    x = torch.rand(7, 4)
    assert m(x, "a").shape == (7, 2)
    assert m(x, "b").shape == (7, 3)
    assert set(m.predict(x, "b").tolist()) <= {0, 5, 9}


def test_class_setting_one_growing_classifier() -> None:
    m = model("class")
    assert m.columns("a") == m.columns("b") == (3, 5, 0, 9)  # the shared class 5 has one column
    assert m(torch.rand(2, 4), "a").shape == (2, 4)


@pytest.mark.parametrize("setting", ["task", "class"])
def test_mixed_losses_equal_the_losses_of_each_task(setting: str) -> None:
    m = model(setting)
    x, y, task = torch.rand(6, 4), torch.tensor([3, 5, 5, 0, 9, 3]), torch.tensor([0, 0, 1, 1, 1, 0])
    mixed = m.mixed_losses(x, y, task, ("a", "b"))
    for t, name in enumerate(("a", "b")):
        assert torch.allclose(mixed[task == t], m.losses(x[task == t], y[task == t], name), atol=1e-6)


def test_mixed_losses_leave_other_heads_alone() -> None:
    m = model("task")
    m.mixed_losses(torch.rand(2, 4), torch.tensor([3, 5]), torch.tensor([0, 0]), ("a",)).sum().backward()
    assert all(p.grad is None for p in m.heads[1].parameters())
    assert all(p.grad is not None for p in m.heads[0].parameters())


def test_losses_are_the_cross_entropy_over_the_right_columns() -> None:
    m = model("class")
    x = torch.rand(3, 4)
    expected = F.cross_entropy(m(x, "a"), torch.tensor([2, 0, 3]), reduction="none")
    assert torch.equal(m.losses(x, torch.tensor([0, 3, 9]), "b"), expected)


def test_heads_do_not_depend_on_when_their_task_appears() -> None:
    one, other = ContinualModel(MLP(4, [6]), 6, seed=1), ContinualModel(MLP(4, [6]), 6, seed=1)
    one.add_task("a", [0, 1])
    one.add_task("b", [2, 3])
    torch.rand(1)
    other.add_task("b", [2, 3])
    assert torch.equal(one.heads[1].weight, other.heads[0].weight)


def test_making_a_head_leaves_the_global_generator_alone() -> None:
    m = ContinualModel(MLP(4, [6]), 6)
    before = torch.get_rng_state()
    m.add_task("a", [0, 1])
    assert torch.equal(before, torch.get_rng_state())


def test_frozen_parameters_are_not_shared_parameters() -> None:
    m = model()
    m.backbone[1].weight.requires_grad_(False)  # type: ignore[index]
    assert len(m.shared_parameters()) == 3


def test_bad_models_are_refused() -> None:
    with pytest.raises(ValueError, match="'task' or 'class'"):
        ContinualModel(MLP(4, [6]), 6, "domain")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="added before"):
        model().add_task("a", [1])


def test_resnet_has_the_standard_size() -> None:
    full, reduced = ResNet18(3, 64), ResNet18(3, 20)
    assert reduced(torch.rand(2, 3, 32, 32)).shape == (2, 160)
    # He et al.: 11,689,512 parameters, less the 1000-class head, with a 3x3 in place of the 7x7 stem
    assert sum(p.numel() for p in full.parameters()) == 11_689_512 - 513_000 - 64 * 3 * (49 - 9)


def test_normalize() -> None:
    x = torch.rand(2, 3, 4, 4)
    out = Normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))(x)
    assert torch.allclose(out[:, 2], (x[:, 2] - 0.3) / 2)
    assert not list(nn.Module.parameters(Normalize((0.0,), (1.0,))))


@pytest.mark.parametrize("classes", [[0, 1, 2], [2, 3, 4], [4, 2], [9, 7, 8]])
@pytest.mark.parametrize("setting", ["task", "class"])
def test_columns_of_labels(classes: list[int], setting: str) -> None:
    m = ContinualModel(MLP(6, [8]), 8, setting)  # type: ignore[arg-type]
    m.add_task("a", classes)
    y = torch.tensor([classes[-1], classes[0], classes[-1]], dtype=torch.int32)
    assert m.column_of(y, "a").tolist() == [len(classes) - 1, 0, len(classes) - 1]
    assert m.column_of(y, "a").dtype == torch.int64


def test_one_who_listens_to_every_module_is_seen() -> None:
    model = ContinualModel(MLP(4, [3]), 3, "class")
    model.add_task("a", [0, 1])
    assert model.dense() is not None
    heard: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(type(module).__name__))
    try:
        assert model.dense() is None
        model(torch.ones(2, 4), "a")
        assert heard.count("Linear") == 2
    finally:
        handle.remove()
