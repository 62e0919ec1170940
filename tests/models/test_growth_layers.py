"""Layers that a growing network has and torch has not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from pcl.models.growth.norms import WeightedLayerNorm
from pcl.models.growth.residual_layer import EmptyableConv2d, ResidualLayer


@pytest.mark.parametrize("affine", [True, False])
def test_equal_shares_are_a_layer_norm(affine: bool) -> None:
    ours, torchs = WeightedLayerNorm(6, 1e-3, affine).double(), nn.LayerNorm(6, 1e-3, affine).double()
    ours.weights.fill_(1 / 6)
    if affine:
        nn.init.normal_(ours.weight)
        nn.init.normal_(ours.bias)
        torchs.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    x = 3 + torch.randn(4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(x), torchs(x), rtol=1e-12, atol=1e-12)


def test_shares_count_like_so_many_equal_channels() -> None:
    ours, twice = WeightedLayerNorm(3).double(), WeightedLayerNorm(4).double()
    ours.weights.copy_(torch.tensor([0.5, 0.25, 0.25]))
    twice.weights.fill_(0.25)
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours(x), twice(x[:, [0, 0, 1, 2]])[:, 1:], rtol=1e-12, atol=1e-12)


def test_half_precision_is_summed_in_single() -> None:
    norm = WeightedLayerNorm(300)
    x = 100 + torch.randn(3, 300)
    assert norm.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    found, exact = norm.float()(x.half()), norm.double()(x.half().double())
    assert found.dtype == torch.float16
    assert (found.double() - exact).abs().max() < 0.01


def test_a_residual_layer_without_neurons_is_the_identity() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layers = [(ResidualLayer(3), (4, 3)), (ResidualLayer(3, 0, 3), (4, 3, 5, 6))]
    for layer, shape in layers:
        x = torch.randn(shape)
        x[0, 0] = torch.inf
        assert torch.equal(layer(x), x)
        x = torch.randn(shape, requires_grad=True)
        layer(x).sum().backward()
        assert torch.equal(x.grad, torch.ones(shape))
        optimizer = torch.optim.Adam(layer.parameters())
        optimizer.step()
        assert all(p.numel() == 0 and p.grad is not None for p in layer.parameters())


def test_a_residual_layer_is_its_formula() -> None:
    for layer, x in (
        (ResidualLayer(3, 4), torch.randn(5, 3)),
        (ResidualLayer(3, 4, 5, torch.tanh), torch.randn(2, 3, 6, 7)),
    ):
        assert torch.equal(layer(x), x + layer.outer(layer.activation(layer.inner(x))))
        assert layer(x).shape == x.shape


def test_an_empty_convolution_has_the_shape_of_a_full_one() -> None:
    for options in ({"stride": 2, "padding": 1}, {"dilation": 2}, {"padding": (2, 0)}):
        full = nn.Conv2d(2, 3, 3, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs, inputs = EmptyableConv2d(2, 0, 3, **options), EmptyableConv2d(0, 3, 3, **options)
        x = torch.randn(4, 2, 9, 8)
        assert outputs(x).shape == (4, 0, *full(x).shape[2:])
        assert torch.equal(inputs(x[:, :0]), inputs.bias.view(1, 3, 1, 1).expand_as(full(x)))
        some = EmptyableConv2d(2, 3, 3, **options)
        some.load_state_dict(full.state_dict())
        assert torch.equal(some(x), full(x))


@pytest.mark.parametrize("given", [(0,), (3, -1), (3, 0, 2), (3, 0, 0)])
def test_refusals(given: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ResidualLayer: expected width >= 1"):
        ResidualLayer(*given)
