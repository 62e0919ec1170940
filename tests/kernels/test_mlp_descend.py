"""Steps of gradient descent made while gradients are found, on every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pcl_kernels import _C, mlp_backward, mlp_descend, mlp_losses
from tests.kernels.mlp_cases import CHAINS, Seen, chain


@pytest.fixture(params=_C.isas(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    _C.use_isa(request.param)
    yield request.param
    _C.use_isa(_C.isas()[-1])


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", CHAINS)
def test_a_step_down_has_the_bits_of_a_stored_gradient(name: str, scaled: bool) -> None:
    x, weights, biases = chain(name)
    biases[0] = None
    found = mlp_losses(x, weights, biases, torch.arange(len(x)) % len(weights[-1]), [len(x)])
    scale = torch.linspace(0.5, 2, len(x)) if scaled else None
    known = x, weights, biases, found.hidden, found.of_logits
    back = mlp_backward(x, weights, found.hidden, found.of_logits, scale=scale)
    before = [None if t is None else t.clone() for t in (*weights, *biases)]
    gradients = [*back.weights, *back.biases]
    expected = [None if t is None else torch.add(t, g, alpha=-0.3) for t, g in zip(before, gradients, strict=True)]  # type: ignore[arg-type]

    out = [None if t is None else torch.full_like(t, torch.nan) for t in before]
    assert mlp_descend(*known, lr=0.3, scale=scale, out=out)
    assert mlp_descend(*known, lr=0.0, scale=scale)
    versions = [t._version for t in weights]
    for t, there, was, to in zip((*weights, *biases), expected, before, out, strict=True):
        assert t is None or (torch.equal(to, there) and torch.equal(t, was))  # type: ignore[arg-type]
    with Seen() as seen:
        assert mlp_descend(*known, lr=0.3, scale=scale, out=out)
    assert seen.names
    assert mlp_descend(*known, lr=0.3, scale=scale)
    for t, there, to in zip((*weights, *biases), expected, out, strict=True):
        assert t is None or (torch.equal(t, there) and torch.equal(to, there))  # type: ignore[arg-type]
    assert all(t._version > v for t, v in zip(weights, versions, strict=True))


@pytest.mark.parametrize("lr", [0.3, -0.3, torch.nan, torch.inf])
def test_a_step_down_of_any_rate_where_no_gradient_comes_to(lr: float) -> None:
    x, (w, v), (b, c) = torch.ones(3, 4), (-torch.ones(5, 4), torch.ones(2, 5)), (torch.zeros(5), torch.zeros(2))
    w[2] = -0.0
    found = mlp_losses(x, [w, v], [b, c], torch.tensor([0, 1, 1]), [3])
    back = mlp_backward(x, [w, v], found.hidden, found.of_logits)
    at, gradients = [w, v, b, c], [*back.weights, *back.biases]
    expected = [torch.add(t, g, alpha=-lr) for t, g in zip(at, gradients, strict=True)]  # type: ignore[arg-type]
    assert gradients[0] is not None
    assert not gradients[0].any()
    assert mlp_descend(x, [w, v], [b, c], found.hidden, found.of_logits, lr=lr)
    for t, there in zip(at, expected, strict=True):
        assert torch.equal(t.isnan(), there.isnan())
        assert torch.equal(t.nan_to_num(), there.nan_to_num())
        assert torch.equal(t.signbit()[~t.isnan()], there.signbit()[~t.isnan()])


@pytest.mark.parametrize("threads", [1, 2])
def test_no_step_down_along_what_is_not_finite(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for of_logits, goes in (([0.0, 2.0], True), ([2.0, 0.0], False), ([torch.nan, 0.0], False), ([0.1, 1.0], True)):
            x, weight, bias = torch.tensor([[3e38], [1.0]]), torch.ones(1, 1), torch.ones(1)
            made = mlp_descend(x, [weight], [bias], [], torch.tensor(of_logits)[:, None], lr=0.5)
            assert made == goes
            g = of_logits[0] * 3e38 + of_logits[1]
            torch.testing.assert_close(weight, torch.tensor([[1 - 0.5 * g]]) if goes else torch.ones(1, 1))
            assert bias == (1 - 0.5 * sum(of_logits) if goes else 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [0.0, 1e-3])
def test_a_bias_whose_gradient_is_infinite_stays(size: float) -> None:
    weight, bias = torch.ones(5, 3), torch.zeros(5)
    assert not mlp_descend(torch.full((4, 3), size), [weight], [bias], [], torch.full((4, 5), 2e38), lr=0.1)
    assert bool((weight == 1).all())
    assert bool((bias == 0).all())


def test_where_it_leads_has_the_shapes_of_what_is_there(isa: str) -> None:
    draws = torch.Generator().manual_seed(0)
    x, w, v, b = (torch.randn(*shape, generator=draws) for shape in ((4, 6), (5, 6), (3, 5), (5,)))
    found = mlp_losses(x, [w, v], [b, None], torch.tensor([0, 1, 2, 0]), [4])
    for vectors in ([None, None], [torch.empty(5), torch.empty(3)], [torch.empty(4), None]):
        out = [torch.full((5, 6), 7.0), torch.full((3, 5), 7.0), *vectors]
        with pytest.raises(ValueError, match="expected out like the 2 weights and their biases"):
            mlp_descend(x, [w, v], [b, None], found.hidden, found.of_logits, lr=0.1, out=out)
        assert all(bool((t == 7).all()) for t in out[:2] if t is not None)
