"""The mixers of the sequence studies: causal, the same in parts as in one piece, and what their formulas say."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pcl.models.residual import ResidualStack
from studies.sequence_mixers import LSTM, Attention, Perceptron, rotated, transformer

WIDTH = 8
MIXERS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attention(WIDTH, 2),
    "perceptron": lambda: Perceptron(WIDTH),
    "LSTM": lambda: LSTM(WIDTH),
}


@pytest.fixture(params=MIXERS)
def mixer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MIXERS[request.param]().double()


def sequence(length: int = 11) -> Tensor:
    return torch.randn(3, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("cuts", [[11], [4, 7], [1] * 11, [5, 1, 1, 4]])
def test_in_parts_as_in_one_piece(mixer: nn.Module, cuts: list[int], grad: bool) -> None:
    x, state, parts = sequence(), None, []
    with torch.set_grad_enabled(grad):
        whole = mixer(x)
        for part in x.split(cuts, dim=1):
            y, state = mixer(part, state, return_state=True)
            parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)


def test_steps_are_the_forward_pass(mixer: nn.Module) -> None:
    x = sequence(40)
    whole, last = mixer(x, return_state=True)
    state = mixer.initial_state(3)
    found = torch.stack([mixer.step(now, state) for now in x.unbind(1)], 1)
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixer.step(x[:, 0], state), mixer(x[:, :1], last)[:, 0], rtol=1e-12, atol=1e-12)


def test_a_stack_of_them_steps(mixer: nn.Module) -> None:
    x, stack = sequence(5), ResidualStack([mixer, Perceptron(WIDTH).double()], WIDTH).double()
    state = stack.initial_state(3)
    found = torch.stack([stack.step(now, state) for now in x.unbind(1)], 1)
    torch.testing.assert_close(found, stack(x), rtol=1e-12, atol=1e-12)


def test_gradients_pass_through_the_state(mixer: nn.Module) -> None:
    x = sequence().requires_grad_()
    (whole,) = torch.autograd.grad(mixer(x)[:, 6:].square().sum(), x)
    _, state = mixer(x[:, :6], return_state=True)
    (parts,) = torch.autograd.grad(mixer(x[:, 6:], state).square().sum(), x)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12)


def test_nothing_is_seen_before_its_time(mixer: nn.Module) -> None:
    x = sequence()
    later = x.clone()
    later[:, 6:] += 1
    assert torch.equal(mixer(x)[:, :6], mixer(later)[:, :6])
    assert not torch.isclose(mixer(x)[:, 6], mixer(later)[:, 6]).all()


def test_attention_is_its_formula() -> None:
    """softmax over the past of <R_t q_t, R_s k_s> / √size, R_t a rotation by t in every plane (i, i + size / 2)."""
    torch.manual_seed(0)
    mixer, x = Attention(WIDTH, 2).double(), sequence(5)
    q, k, v = ((x @ w.T).unflatten(-1, (2, 4)) for w in mixer.qkv.weight.chunk(3))
    out = torch.zeros(3, 5, 2, 4, dtype=torch.float64)
    for h in range(2):
        for t in range(5):
            turned = [complex_pairs(k[:, s, h]) * phase(s) for s in range(t + 1)]
            query = complex_pairs(q[:, t, h]) * phase(t)
            scores = torch.stack([(query * key.conj()).real.sum(-1) / 2 for key in turned], 1)
            out[:, t, h] = (scores.softmax(1)[..., None] * v[:, : t + 1, h]).sum(1)
    expected = out.flatten(2) @ mixer.out.weight.T
    torch.testing.assert_close(mixer(x), expected, rtol=1e-12, atol=1e-12)


def complex_pairs(t: Tensor) -> Tensor:
    return torch.complex(t[..., :2], t[..., 2:])


def phase(position: int) -> Tensor:
    return torch.exp(1j * position * torch.tensor([1.0, 0.01], dtype=torch.complex128))


def test_rotary_products_depend_on_distance_alone() -> None:
    q, k = sequence(1), sequence(1).flip(0)
    near = (rotated(q, 3) * rotated(k, 1)).sum(-1)
    torch.testing.assert_close((rotated(q, 4002) * rotated(k, 4000)).sum(-1), near, rtol=1e-10, atol=1e-10)


def test_the_cache_is_copied_seldom() -> None:
    mixer, x, addresses = Attention(WIDTH), sequence(200).float(), set()
    state = mixer.initial_state(3)
    for now in x.unbind(1):
        mixer.step(now, state)
        addresses.add((state["keys"].data_ptr(), state["keys"].shape[2]))
    assert sorted(room for _, room in addresses) == [16, 32, 64, 128, 256]


def test_odd_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="choose a width that 6 divides"):
        Attention(8, 3)


def test_a_transformer_has_twelve_squares_per_layer() -> None:
    assert sum(p.numel() for m in transformer(16, 3, 2) for p in m.parameters()) == 3 * 12 * 16**2
