"""BatchNorm of which some channels rest, beside two of torch."""

import copy

import pytest
import torch
from torch import nn

from pcl.models.growth.resting import resting


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("shape", [(7, 5), (4, 5, 3), (3, 5, 4, 2)])
def test_some_channels_rest_and_others_are_as_always(
    shape: tuple[int, ...], momentum: float | None, affine: bool
) -> None:
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    root = nn.Sequential(kind(5, momentum=momentum, affine=affine, eps=1e-3)).double()
    for tensor in (*root.parameters(), root[0].running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(root[0].running_var, 0.5, 2.0)
    rest = torch.tensor([True, False, True, False, False])
    x = 3 * torch.randn(shape, dtype=torch.float64) + 1
    v = torch.randn(shape, dtype=torch.float64)
    free, frozen = copy.deepcopy(root), copy.deepcopy(root).eval()
    results = []
    for way in range(2):
        leaf = x.clone().requires_grad_()
        if way == 0:
            with resting(root, {"0": rest}):
                y = root(leaf)
            wanted = [leaf, *root.parameters()]
        else:
            y = torch.where(rest.view(-1, *[1] * (x.dim() - 2)), frozen(leaf), free(leaf))
            wanted = [leaf, *free.parameters(), *frozen.parameters()]
        results.append((y, torch.autograd.grad((y * v).sum(), wanted)))
    (y, gradients), (expected, parts) = results
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients[0], parts[0], rtol=1e-10, atol=1e-10)
    if affine:  # of two layers, each in its channels
        torch.testing.assert_close(gradients[1:], (parts[1] + parts[3], parts[2] + parts[4]), rtol=1e-10, atol=1e-10)
    for name in ("running_mean", "running_var"):
        assert torch.equal(getattr(root[0], name)[rest], getattr(frozen[0], name)[rest])
        torch.testing.assert_close(getattr(root[0], name)[~rest], getattr(free[0], name)[~rest])
    assert "forward" not in vars(root[0])


def test_a_layer_that_refuses_its_input_is_as_it_was() -> None:
    root = nn.Sequential(nn.BatchNorm1d(3))
    before = copy.deepcopy(root.state_dict())
    with pytest.raises(ValueError, match="expected"), resting(root, {"0": torch.tensor([True, False, False])}):
        root(torch.randn(4, 2))
    assert "forward" not in vars(root[0])
    assert all(torch.equal(now, before[name]) for name, now in root.state_dict().items())


def test_a_layer_in_evaluation_mode_is_left_alone() -> None:
    root = nn.Sequential(nn.BatchNorm1d(3)).eval()
    x = torch.randn(4, 3)
    with resting(root, {"0": torch.tensor([True, False, False])}):
        assert "forward" not in vars(root[0])
        assert torch.equal(root(x), nn.BatchNorm1d(3).eval()(x))


def test_one_sample_is_refused_as_torch_refuses_it() -> None:
    """Its variance is none, and would make the running one NaN."""
    root = nn.Sequential(nn.BatchNorm1d(3))
    before = copy.deepcopy(root.state_dict())
    with pytest.raises(ValueError, match="more than 1 value"), resting(root, {"0": torch.tensor([True, False, False])}):
        root(torch.randn(1, 3))
    assert all(torch.equal(now, before[name]) for name, now in root.state_dict().items())


def test_bfloat16_is_rounded_once_however_far_the_mean_is_from_0() -> None:
    torch.manual_seed(0)
    root = nn.Sequential(nn.BatchNorm2d(4))
    nn.init.constant_(root[0].running_mean, 30.0)
    rest = torch.tensor([True, False, True, False])
    x = (torch.randn(16, 4, 5, 5) + 30).bfloat16().requires_grad_()
    exact = copy.deepcopy(root).double()
    frozen = copy.deepcopy(exact).eval()
    leaf = x.detach().double().requires_grad_()
    expected = torch.where(rest.view(-1, 1, 1), frozen(leaf), exact(leaf))
    with resting(root, {"0": rest}):
        y = root(x)
    assert y.dtype == torch.bfloat16
    v = torch.randn_like(expected)
    (found,) = torch.autograd.grad((y * v).sum(), x)
    (gradient,) = torch.autograd.grad((expected * v).sum(), leaf)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-3)
    torch.testing.assert_close(found.double(), gradient, rtol=2**-6, atol=2**-6)
