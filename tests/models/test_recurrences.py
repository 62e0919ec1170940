"""Sibling recurrences: closed forms, Longhorn and each other as special cases, the objectives that they minimise."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from pcl.models.recurrences import delta_rule, gla, linear_attention, retnet, rg_lru, s6
from pcl_kernels import longhorn_scan

BATCH, LENGTH, CHANNELS, STATES = 2, 7, 5, 3
Case = tuple[Callable[..., tuple[Tensor, Tensor]], dict[str, Tensor]]


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Q, K, GATE = (numbers(BATCH, LENGTH, size, seed=i) for i, size in enumerate((CHANNELS, STATES, STATES, CHANNELS), 1))
SIZE = numbers(BATCH, LENGTH, CHANNELS, seed=5).sigmoid()
COLUMNS = numbers(BATCH, LENGTH, STATES, seed=6).sigmoid()
RATES = -numbers(CHANNELS, STATES, seed=7).exp()
START = numbers(BATCH, CHANNELS, STATES, seed=8)
GAMMA = torch.tensor(0.8, dtype=torch.float64)
OUTER = X[..., None] * K[:, :, None]  # x_t ⊗ k_t

KEYED: dict[str, Case] = {
    "linear attention": (linear_attention, {}),
    "RetNet": (retnet, {"keep": GAMMA}),
    "RetNet, a rate per channel": (retnet, {"keep": SIZE[0, 0, :, None]}),
    "GLA": (gla, {"keep": COLUMNS}),
    "S6": (s6, {"size": SIZE, "rates": RATES}),
    "delta rule": (delta_rule, {"size": SIZE}),
}
#: A_t and B_t of Sec. 6.2, for all t at once
DIAGONAL: dict[str, tuple[Tensor, Tensor]] = {
    "linear attention": (torch.ones_like(OUTER), OUTER),
    "RetNet": (torch.full_like(OUTER, 0.8), OUTER),
    "RetNet, a rate per channel": (SIZE[0, 0, :, None].expand_as(OUTER), OUTER),
    "GLA": (COLUMNS[:, :, None].expand_as(OUTER), OUTER),
    "S6": (torch.exp(RATES * SIZE[..., None]), (SIZE * X)[..., None] * K[:, :, None]),
}


def unrolled(kept: Tensor, added: Tensor, start: Tensor) -> Tensor:
    """S_t = (Π_{r <= t} A_r) S_0 + Σ_{s <= t} (Π_{s < r <= t} A_r) B_s for every t (Eq. 6.2)."""
    states = []
    for t in range(kept.shape[1]):
        parts = [kept[:, s + 1 : t + 1].prod(1) * added[:, s] for s in range(t + 1)]
        states.append(kept[:, : t + 1].prod(1) * start + sum(parts))
    return torch.stack(states, 1)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# ---- what they compute


@pytest.mark.parametrize("name", DIAGONAL)
def test_diagonal_recurrences_are_the_unrolled_sum(name: str) -> None:
    run, given = KEYED[name]
    states = unrolled(*DIAGONAL[name], START)
    out, last = run(X, Q, K, **given, state=START)
    same(out, (states @ Q[..., None]).squeeze(-1))
    same(last, states[:, -1])


def test_rg_lru_is_the_unrolled_sum() -> None:
    out, last = rg_lru(X, SIZE, GATE, state=START[..., 0])
    same(out, unrolled(SIZE, (1 - SIZE).sqrt() * GATE * X, START[..., 0]))
    same(last, out[:, -1])


def test_griffins_own_input_gate() -> None:
    """√(1 - α²) = √(1 - α) √(1 + α)."""
    own = rg_lru(X, SIZE, GATE * (1 + SIZE).sqrt())[0]
    same(own, unrolled(SIZE, (1 - SIZE.square()).sqrt() * GATE * X, torch.zeros_like(X[:, 0])))


def test_the_delta_rule_is_a_product_of_matrices() -> None:
    """Row i: S_t = S_{t-1} (I - β_i k kᵀ) + β_i x_i kᵀ."""
    rows, outs = START, []
    for t in range(LENGTH):
        key = K[:, t, None, :]  # (B, 1, M)
        size = SIZE[:, t, :, None, None]
        keep = torch.eye(STATES, dtype=torch.float64) - size * (key.mT @ key)[:, None]  # (B, D, M, M)
        rows = (rows[:, :, None] @ keep).squeeze(2) + SIZE[:, t, :, None] * X[:, t, :, None] * key
        outs.append((rows @ Q[:, t, :, None]).squeeze(-1))
    out, last = delta_rule(X, Q, K, SIZE, state=START)
    same(out, torch.stack(outs, 1))
    same(last, rows)


@pytest.mark.parametrize("name", KEYED)
def test_no_state_is_a_state_of_zeros_and_parts_go_on(name: str) -> None:
    run, given = KEYED[name]

    def part(steps: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
        cut = {n: t[:, steps] if t.dim() == 3 else t for n, t in given.items()}
        return run(X[:, steps], Q[:, steps], K[:, steps], **cut, state=state)

    out, last = part(slice(None), None)
    assert torch.equal(out, part(slice(None), torch.zeros_like(START))[0])
    early, state = part(slice(4), None)
    late, final = part(slice(4, None), state)
    assert torch.equal(torch.cat([early, late], 1), out)
    assert torch.equal(final, last)
    nothing, unchanged = part(slice(0), START)
    assert nothing.shape == (BATCH, 0, CHANNELS)
    assert unchanged is START


@pytest.mark.parametrize("name", KEYED)
def test_gradcheck(name: str) -> None:
    run, given = KEYED[name]
    tensors = [t.clone().requires_grad_() for t in (X[:, :3], Q[:, :3], K[:, :3], START)]
    more = {n: (t[:, :3] if t.dim() == 3 else t).clone().requires_grad_() for n, t in given.items()}

    def flat(x: Tensor, q: Tensor, k: Tensor, state: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        return run(x, q, k, **dict(zip(more, rest, strict=True)), state=state)

    assert torch.autograd.gradcheck(flat, (*tensors, *more.values()))


def test_gradcheck_of_rg_lru() -> None:
    tensors = [t.clone().requires_grad_() for t in (X[:, :3], SIZE[:, :3], GATE[:, :3])]
    assert torch.autograd.gradcheck(lambda *t: rg_lru(*t), tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": torch.ones(CHANNELS)}, r"keep: expected a shape of \(\) or \(5, 1\), got \(5,\)"),
        ({"q": Q[:, 1:]}, "one batch and length"),
        ({"k": K[0]}, "one batch and length"),
        ({"state": START[:1]}, r"state: expected \(2, 5, 3\)"),
    ],
)
def test_other_shapes_are_refused(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retnet(**{"x": X, "q": Q, "k": K, "keep": GAMMA, "state": START, **change})


# ---- what they have to do with each other


def test_special_cases() -> None:
    expected = linear_attention(X, Q, K)[0]
    assert torch.equal(retnet(X, Q, K, torch.ones((), dtype=torch.float64))[0], expected)
    assert torch.equal(gla(X, Q, K, torch.ones_like(K))[0], expected)
    same(s6(X / SIZE, Q, K, SIZE, torch.zeros_like(RATES))[0], expected)
    same(gla(X, Q, K, GAMMA.expand_as(K))[0], retnet(X, Q, K, GAMMA)[0])
    same(s6(X, Q, K, torch.ones_like(X), RATES[:1].expand_as(RATES))[0], gla(X, Q, K, RATES[0].exp().expand_as(K))[0])


def test_longhorn_is_a_delta_rule() -> None:
    """The exact update, with Δ = β / (1 + β |k|²) for a step size."""
    out, last = longhorn_scan(X, Q, K, SIZE, exact=True, initial_state=START, return_state=True)
    expected = delta_rule(X, Q, K, own_step(SIZE), state=START)
    same(out, expected[0])
    same(last, expected[1])


def test_longhorn_is_gla_where_channels_share_beta() -> None:
    """α = 1 - Δ k², and Δ x for x."""
    size = own_step(SIZE[..., :1].expand_as(SIZE))
    out = longhorn_scan(X, Q, K, SIZE[..., :1].expand_as(SIZE))
    same(out, gla(size * X, Q, K, 1 - size[..., :1] * K.square())[0])


def test_longhorn_with_one_state_is_an_rg_lru() -> None:
    """α = 1 - Δ k², √(1 - α) = √Δ |k|."""
    k, q = K[..., :1], Q[..., :1]
    size = own_step(SIZE, k)
    out = q * rg_lru(X, 1 - size * k.square(), size.sqrt() * k.sign())[0]
    same(longhorn_scan(X, q, k, SIZE), out)


def own_step(beta: Tensor, k: Tensor = K) -> Tensor:
    return beta / (1 + beta * k.square().sum(-1, keepdim=True))


# ---- Table 6.1: S_t minimises the objective of its row, for every S_{t-1}, x_t, k_t: the gradient vanishes there


def one_step(name: str, **changed: Tensor) -> Tensor:
    """S_1 from START and the first of everything."""
    run, given = KEYED[name]
    first = {n: t[:, :1] if t.dim() == 3 else t for n, t in {**given, **changed}.items()}
    return run(X[:, :1], Q[:, :1], K[:, :1], **first, state=START)[1]


def squares(t: Tensor) -> Tensor:
    return t.square().sum()


def recalled(s: Tensor) -> Tensor:
    """⟨S k_t, x_t⟩."""
    return torch.einsum("bdm,bm,bd->", s, K[:, 0], X[:, 0])


def objectives() -> Iterator[tuple[str, Tensor, Callable[[Tensor], Tensor]]]:
    """Name, S_1, objective; the four rows of the table whose update is one state's own minimiser."""
    yield "linear attention", one_step("linear attention"), lambda s: squares(s - START) - 2 * recalled(s)
    yield (
        "RetNet",
        one_step("RetNet"),
        lambda s: GAMMA * squares(s - START) + (1 - GAMMA) * squares(s) - 2 * recalled(s),
    )
    # The table prints + 2⟨S k, x⟩; see test_the_printed_sign_of_gla
    alpha = COLUMNS[:, 0, None]
    yield "GLA", one_step("GLA"), lambda s: squares(s - START * alpha) - 2 * recalled(s)
    keep, gate, x, start = SIZE[:, 0], GATE[:, 0], X[:, 0], START[..., 0]
    yield (
        "Griffin",
        rg_lru(X[:, :1], SIZE[:, :1], GATE[:, :1], state=start)[1],
        lambda s: (
            squares(keep.sqrt() * (s - start))
            + squares((1 - keep).sqrt() * s)
            - 2 * ((1 - keep).sqrt() * s * gate * x).sum()
        ),
    )
    # Not in the table: Mamba is RetNet with a rate of its own for every state, and ε x for x.
    kept, value = torch.exp(RATES * SIZE[:, 0, :, None]), SIZE[:, 0] * X[:, 0]
    yield (
        "S6",
        one_step("S6"),
        lambda s: (
            (kept * (s - START).square()).sum()
            + ((1 - kept) * s.square()).sum()
            - 2 * torch.einsum("bdm,bm,bd->", s, K[:, 0], value)
        ),
    )
    # Theorem 6.3.1: Longhorn's row, with the exact update
    exact = one_step("delta rule", size=own_step(SIZE))
    yield "Longhorn, exact", exact, lambda s: squares(s - START) + squares(SIZE[:, 0].sqrt() * miss(s))
    # DeltaNet takes Longhorn's objective with β / (1 - β |k|²), as long as β |k|² < 1.
    slow = SIZE / (1 + K.square().sum(-1, keepdim=True))
    implied = (slow / (1 - slow * K.square().sum(-1, keepdim=True)))[:, 0]
    yield (
        "delta rule",
        one_step("delta rule", size=slow),
        lambda s: squares(s - START) + squares(implied.sqrt() * miss(s)),
    )
    # What the diagonal of the update minimises: every state by itself recalls x_i for its own entry k_j of the key.
    size, key = own_step(SIZE)[:, 0, :, None], K[:, 0, None]
    yield (
        "Longhorn, diagonal",
        diagonal_longhorn(),
        lambda s: (
            ((1 - size * key.square()) * (s - START).square()).sum()
            + (size * (s * key - X[:, 0, :, None]).square()).sum()
        ),
    )


def miss(s: Tensor) -> Tensor:
    """S k_t - x_t."""
    return torch.einsum("bdm,bm->bd", s, K[:, 0]) - X[:, 0]


def diagonal_longhorn() -> Tensor:
    given = (t[:, :1] for t in (X, Q, K, SIZE))
    return longhorn_scan(*given, initial_state=START, return_state=True)[1]


def slope(objective: Callable[[Tensor], Tensor], at: Tensor) -> float:
    at = at.detach().requires_grad_()
    (found,) = torch.autograd.grad(objective(at), at)
    return float(found.abs().max())


OBJECTIVES = {name: (state, objective) for name, state, objective in objectives()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_update_is_the_minimiser(name: str) -> None:
    state, objective = OBJECTIVES[name]
    assert slope(objective, state) < 1e-13
    assert slope(objective, START if state.dim() == 3 else START[..., 0]) > 0.1  # as it would not be by accident


@pytest.mark.parametrize("name", OBJECTIVES)
def test_there_is_one_minimiser(name: str) -> None:
    """Each objective is a convex quadratic: it grows in every direction, by the same in both senses."""
    state, objective = OBJECTIVES[name]
    for seed in range(5):
        off = numbers(*state.shape, seed=20 + seed)
        up, down = (float(objective(state + sign * off) - objective(state)) for sign in (1, -1))
        assert up > 0.1
        assert up == pytest.approx(down, rel=1e-12)


def test_the_printed_sign_of_gla() -> None:
    """With + 2⟨S k, x⟩, as printed, the minimiser is S_{t-1} diag(α) - x ⊗ k: it would unlearn what it sees."""
    alpha = COLUMNS[:, 0, None]
    unlearnt = START * alpha - OUTER[:, 0]

    def printed(s: Tensor) -> Tensor:
        return squares(s - START * alpha) + 2 * recalled(s)

    assert slope(printed, unlearnt) < 1e-13
    assert slope(printed, one_step("GLA")) == pytest.approx(4 * float(OUTER[:, 0].abs().max()), rel=1e-12)


def test_the_printed_longhorn_is_no_minimiser_of_its_row() -> None:
    """The table pairs the objective of Theorem 6.3.1 with the diagonal update, which is its minimiser only where the
    key has one entry."""
    objective = OBJECTIVES["Longhorn, exact"][1]
    assert slope(objective, diagonal_longhorn()) > 0.1
    single = torch.zeros_like(K)
    single[..., 1] = K[..., 1]
    given = [t[:, :1] for t in (X, Q, single, SIZE)]
    both = [longhorn_scan(*given, exact=e, initial_state=START, return_state=True)[1] for e in (True, False)]
    same(both[0], both[1])
