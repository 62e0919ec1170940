"""Siblings of the Longhorn block: Mamba's and GLA's equations, step by step, inside its projections."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, silu, softplus

from studies.sibling_blocks import GLABlock, MambaBlock, SiblingBlock

WIDTH, INNER, STATES = 6, 12, 3


@pytest.fixture(params=[MambaBlock, GLABlock])
def block(request: pytest.FixtureRequest) -> SiblingBlock:
    return made(request.param)


def made(kind: type[SiblingBlock]) -> SiblingBlock:
    torch.manual_seed(0)
    return kind(WIDTH, states=STATES, rank=2).double()


def sequence(length: int = 9) -> Tensor:
    return torch.randn(2, length, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def by_hand(block: SiblingBlock, x: Tensor) -> Tensor:
    """The equations of Mamba's paper, one step after the other."""
    u, z = (x @ block.in_proj.weight.T).chunk(2, dim=-1)
    window = torch.cat([torch.zeros(2, 3, INNER, dtype=x.dtype), u], 1).mT
    u = silu(conv1d(window, block.conv1d.weight, block.conv1d.bias, groups=INNER).mT)
    r, k, q = (u @ block.x_proj.weight.T).split([2, STATES, STATES], dim=-1)
    r = r @ block.dt_head.weight.T + block.dt_head.bias
    state, outs = torch.zeros(2, INNER, STATES, dtype=x.dtype), []
    for t in range(x.shape[1]):
        if isinstance(block, MambaBlock):
            size = softplus(r[:, t, :, None])
            state = torch.exp(-size * block.A_log.exp()) * state + size * u[:, t, :, None] * k[:, t, None]
        else:
            state = r[:, t, None].sigmoid() ** (1 / 16) * state + u[:, t, :, None] * k[:, t, None]
        outs.append((state * q[:, t, None]).sum(-1) + block.D * u[:, t])
    return (torch.stack(outs, 1) * silu(z)) @ block.out_proj.weight.T


def test_blocks_are_their_equations(block: SiblingBlock) -> None:
    torch.testing.assert_close(block(sequence()), by_hand(block, sequence()), rtol=1e-12, atol=1e-13)


def test_parts_and_steps_go_on(block: SiblingBlock) -> None:
    x = sequence()
    whole = block(x)
    early, state = block(x[:, :4], return_state=True)
    torch.testing.assert_close(torch.cat([early, block(x[:, 4:], state)], 1), whole, rtol=1e-12, atol=1e-13)
    state = block.initial_state(2)
    steps = torch.stack([block.step(now, state) for now in x.unbind(1)], 1)
    torch.testing.assert_close(steps, whole, rtol=1e-12, atol=1e-13)


def test_reversed_is_flipped(block: SiblingBlock) -> None:
    u, z = block.in_proj(sequence()).chunk(2, dim=-1)
    assert torch.equal(block.scan(u, z, reverse=True), block.scan(u.flip(1), z.flip(1)).flip(1))


def test_mamba_begins_as_published() -> None:
    torch.manual_seed(0)
    block = MambaBlock(64)
    sizes = softplus(block.dt_head.bias.detach())
    assert 1e-3 <= sizes.min() < 2e-3
    assert 5e-2 < sizes.max() <= 0.1
    assert abs(float(sizes.log().mean()) - float(torch.tensor(1e-2).log())) < 0.4  # the middle of the logarithms
    assert torch.allclose(block.A_log.exp(), torch.arange(1.0, 17.0).expand(128, 16))
    assert block.dt_head.weight.abs().max() <= 0.5


def test_gradients_reach_every_parameter(block: SiblingBlock) -> None:
    block(sequence()).square().sum().backward()
    for name, p in block.named_parameters():
        assert p.grad is not None, name
        assert (p.grad != 0).any(), name
