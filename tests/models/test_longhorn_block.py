"""The Longhorn block and the residual stack, against Algorithm 7 written out and against themselves in parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcl.models.longhorn.block import LonghornBlock, longhorn_stack
from pcl.models.longhorn.config import LonghornConfig
from pcl.models.longhorn.state import detach_state
from pcl.models.residual import ResidualStack
from pcl_kernels.longhorn_scan import reference

EPS = torch.finfo(torch.float64).eps


def block(width: int = 6, **options: int | bool) -> LonghornBlock:
    """A block in float64 whose every parameter matters."""
    torch.manual_seed(0)
    made = LonghornBlock(width, states=3, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        made.D.normal_()
        made.dt_head.bias.normal_()
    return made


def sequence(batch: int = 2, length: int = 9, width: int = 6) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of sums in another order."""
    return bool((a - b).abs().max() <= 1000 * EPS * b.abs().max())


def written_out(b: LonghornBlock, x: Tensor) -> Tensor:
    """The block step by step, with Conv1d as torch has it and the recurrence of the reference."""
    u, z = (x @ b.in_proj.weight.T).chunk(2, dim=-1)
    u = F.silu(b.conv1d(u.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
    r, k, q = b.x_proj(u).split([b.rank, b.states, b.states], dim=-1)
    beta = torch.sigmoid(r @ b.dt_head.weight.T + b.dt_head.bias)
    o, _ = reference.longhorn_scan(u, q.unsqueeze(2), k.unsqueeze(2), beta, exact=b.exact)
    return b.out_proj((o + b.D * u) * F.silu(z))


@pytest.mark.parametrize("options", [{}, {"conv": 1}, {"expand": 1, "rank": 5}, {"exact": True}], ids=str)
def test_the_block_is_what_its_docstring_says(options: dict[str, int | bool]) -> None:
    b, x = block(**options), sequence()
    assert close(b(x), written_out(b, x))


def test_it_is_causal() -> None:
    b, x = block(), sequence()
    later = x.clone()
    later[:, 5:] += 1
    before, after = b(x), b(later)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.isclose(before[:, 5:], after[:, 5:]).any()


@pytest.mark.parametrize("options", [{}, {"conv": 1}, {"exact": True}], ids=str)
def test_parts_with_the_state_carried_are_the_whole(options: dict[str, int | bool]) -> None:
    """Parts shorter than the convolution too."""
    b, x = block(**options), sequence()
    whole, last = b(x, return_state=True)
    assert close(whole, b(x))
    parts, state = [], None
    for part in x.split([1, 2, 4, 1, 1], dim=1):
        y, state = b(part, state, return_state=True)
        parts.append(y)
    assert close(torch.cat(parts, dim=1), whole)
    assert all(close(a, c) for a, c in zip(state, last, strict=True) if c.numel())  # type: ignore[arg-type]
    assert close(b(x[:, 4:], b(x[:, :4], return_state=True)[1]), whole[:, 4:])  # without asking for the state


def test_a_given_state_stays_as_it_is() -> None:
    b, x = block(), sequence()
    _, state = b(x, return_state=True)
    before = [t.clone() for t in state]
    b(x, state, return_state=True)
    assert all(torch.equal(a, c) for a, c in zip(state, before, strict=True))


def test_gradients_flow_through_the_carried_state_until_it_is_detached() -> None:
    b, x = block(), sequence().requires_grad_()
    (whole,) = torch.autograd.grad(b(x).square().sum(), x)
    y0, state = b(x[:, :4], return_state=True)
    y1 = b(x[:, 4:], state)
    (carried,) = torch.autograd.grad(y0.square().sum() + y1.square().sum(), x)
    assert close(carried, whole)
    y1 = b(x[:, 4:], detach_state(b(x[:, :4], return_state=True)[1]))
    (cut,) = torch.autograd.grad(y1.square().sum(), x)
    assert not cut[:, :4].any()
    assert cut[:, 4:].any()


@pytest.mark.parametrize("options", [{}, {"conv": 1}, {"exact": True}], ids=str)
def test_steps_are_the_forward_pass(options: dict[str, int | bool]) -> None:
    b, x = block(**options), sequence()
    whole, last = b(x, return_state=True)
    state = b.initial_state(len(x))
    addresses = [t.data_ptr() for t in state]
    steps = torch.stack([b.step(x_t, state) for x_t in x.unbind(1)], dim=1)
    assert close(steps, whole)
    assert all(close(a, c) for a, c in zip(state, last, strict=True) if c.numel())
    assert [t.data_ptr() for t in state] == addresses  # nothing grows
    assert not steps.requires_grad


def test_gradients() -> None:
    """Of x and of every parameter, and once more of those."""
    b, x = block(2), sequence(1, 3, 2).requires_grad_()
    names = [name for name, _ in b.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(b, dict(zip(names, parameters, strict=True)), (x,))
        return y

    given = (x, *(p.detach().requires_grad_() for p in b.parameters()))
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)
    plain, again = (torch.autograd.grad(run(*given).sin().sum(), given, create_graph=twice) for twice in (False, True))
    assert all(map(close, again, plain))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    """By dtype and by autocast: near the truth, with the memory in float32."""
    made, x = longhorn_stack(LonghornConfig(8, 2)), sequence(2, 9, 8).float()
    expected, _ = made(x, return_state=True)
    with torch.autocast("cpu", dtype):
        found, state = made(x, return_state=True)
        y, state = made(x, state, return_state=True)
        y.sum().backward()
    assert [t.dtype for t in state[0]] == [dtype, torch.float32]
    assert (found - expected).abs().max() < 20 * torch.finfo(dtype).eps * expected.abs().max()
    half = made.to(dtype)
    found, state = half(x.to(dtype), return_state=True)
    assert found.dtype == dtype
    assert [t.dtype for t in state[0]] == [dtype, torch.float32]
    assert (found - expected).abs().max() < 20 * torch.finfo(dtype).eps * expected.abs().max()
    stepped = half.initial_state(2)
    steps = torch.stack([half.step(x_t, stepped) for x_t in x.to(dtype).unbind(1)], dim=1)
    assert (steps - expected).abs().max() < 20 * torch.finfo(dtype).eps * expected.abs().max()


def test_names_and_shapes_are_the_published_ones() -> None:
    """width 32, inner 64, rank 2, 16 states."""
    found = {name: tuple(p.shape) for name, p in longhorn_stack(LonghornConfig(32, 1)).state_dict().items()}
    assert found == {
        "layers.0.norm.weight": (32,),
        "layers.0.mixer.D": (64,),
        "layers.0.mixer.in_proj.weight": (128, 32),
        "layers.0.mixer.conv1d.weight": (64, 1, 4),
        "layers.0.mixer.conv1d.bias": (64,),
        "layers.0.mixer.x_proj.weight": (34, 64),
        "layers.0.mixer.dt_head.weight": (64, 2),
        "layers.0.mixer.dt_head.bias": (64,),
        "layers.0.mixer.out_proj.weight": (32, 64),
        "norm_f.weight": (32,),
    }


def test_initial_values() -> None:
    """out_proj is uniform with a bound of 1 / sqrt(inner), smaller by sqrt(depth)."""
    made = longhorn_stack(LonghornConfig(32, 4))
    for layer in made.layers:
        largest = layer.mixer.out_proj.weight.abs().max()  # type: ignore[union-attr, operator]
        assert 0.99 < largest * 64**0.5 * 4**0.5 <= 1
        assert not layer.mixer.dt_head.bias.any()  # type: ignore[union-attr, operator]


def test_compiled() -> None:
    """In one graph, forward and backward."""
    b, x = block().float(), sequence().float()
    expected = torch.autograd.grad(b(x).square().sum(), list(b.parameters()))
    compiled = torch.compile(b, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x).square().sum(), list(b.parameters()))
    assert all(torch.allclose(f, e, rtol=1e-4, atol=1e-6) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("option", ["width", "states", "expand", "conv", "rank"])
def test_sizes_below_one_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        LonghornBlock(**{"width": 4, option: 0})


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 5), (2, 0, 6)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(batch, length, 6\)"):
        block()(torch.zeros(shape, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected \(batch, 6\)"):
        block().step(torch.zeros(2, 3, 6, dtype=torch.float64), block().initial_state(2))


def test_states_of_other_sizes_are_refused_before_anything_changes() -> None:
    b, x = block(), sequence()
    state = b.initial_state(3)
    with pytest.raises(ValueError, match="same number of sequences"):
        b(x, state)
    with pytest.raises(ValueError, match="same number of sequences"):
        b.step(x[:, 0], state)
    assert not any(t.any() for t in state)


# ---- the stack


class Running(nn.Module):
    """A mixer of another kind: the sum so far."""

    def forward(self, x: Tensor, state: Tensor | None = None, return_state: bool = False) -> object:
        sums = x.cumsum(1) + (0 if state is None else state[:, None])
        return (sums, sums[:, -1]) if return_state else sums

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        return state.add_(x).clone()

    def initial_state(self, batch: int) -> Tensor:
        return torch.zeros(batch, 6, dtype=torch.float64)


def stack() -> ResidualStack:
    return ResidualStack([block(), Running(), block(conv=2)], 6).double()


def test_the_stack_is_what_its_docstring_says() -> None:
    made, x = stack(), sequence()
    y = x
    for layer in made.layers:
        scaled = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5)
        y = y + layer.mixer(scaled)  # type: ignore[operator]
    assert close(made(x), y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5))


def test_the_stack_carries_the_states_of_all_mixers() -> None:
    made, x = stack(), sequence()
    whole, last = made(x, return_state=True)
    y0, state = made(x[:, :3], return_state=True)
    y1, state = made(x[:, 3:], detach_state(state), return_state=True)
    assert close(torch.cat([y0, y1], dim=1), whole)
    assert close(state[1], last[1])
    state = made.initial_state(2)
    assert close(torch.stack([made.step(x_t, state) for x_t in x.unbind(1)], dim=1), whole)
    with pytest.raises(ValueError, match="3 mixers, got 2"):
        made(x, state[:2])


def test_detach_state_finds_tensors_in_containers() -> None:
    x = torch.ones(2, requires_grad=True) * 1
    found = detach_state({"a": [x, (x, None)], "b": 3})
    assert not found["a"][0].requires_grad
    assert not found["a"][1][0].requires_grad
    assert found["a"][1][1] is None
    assert found["b"] == 3
