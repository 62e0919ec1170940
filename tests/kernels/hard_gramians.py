"""Gramians that break small QP solvers, with the exact minimum beside each. Tests and benches share them.

Every gradient is a row of integers times a power of two, with inner products below 2**53, so its Gramian is
exact in float64 and the minimum can be had as a fraction. A family is a function (rng, k) -> integer rows;
`FAMILIES` lists them, `SIGMAS` the constraint vectors, `hard_set` draws from both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

Rows = list[list[int]]
Rng = np.random.Generator
Vector = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class Problem:
    """min λᵀGλ, Σλσ = 1, λ >= 0 for g_i = rows[i] * 2**exponents[i]."""

    family: str
    rows: Rows
    exponents: list[int]
    sigma: list[float]

    @property
    def k(self) -> int:
        return len(self.rows)

    def inner(self) -> list[list[int]]:
        """J Jᵀ of the integer rows, without rounding: numpy multiplies integers as such."""
        rows = np.array(self.rows, dtype=np.int64)
        found: list[list[int]] = (rows @ rows.T).tolist()
        return found

    def gram(self) -> Tensor:
        """G in float64, every entry exact."""
        inner, e = self.inner(), self.exponents
        size = range(self.k)
        return torch.tensor([[math.ldexp(inner[i][j], e[i] + e[j]) for j in size] for i in size], dtype=torch.float64)

    def sigma_tensor(self) -> Tensor:
        return torch.tensor(self.sigma, dtype=torch.float64)


# --- families -------------------------------------------------------------------------------------


def _ints(rng: Rng, k: int, m: int, limit: int = 1000) -> Rows:
    return [[int(v) for v in row] for row in rng.integers(-limit, limit + 1, size=(k, m))]


def random_full_rank(rng: Rng, k: int) -> Rows:
    return _ints(rng, k, k + 3)


def rank_deficient(rng: Rng, k: int) -> Rows:
    return _ints(rng, k, max(1, k // 2))


def rank_one(rng: Rng, k: int) -> Rows:
    row = _ints(rng, 1, 4, 50)[0]
    return [[int(c) * v for v in row] for c in rng.integers(1, 40, size=k)]


def duplicates(rng: Rng, k: int) -> Rows:
    rows = _ints(rng, max(1, (k + 1) // 2), k)
    return [list(rows[i % len(rows)]) for i in range(k)]


def multiples(rng: Rng, k: int) -> Rows:
    rows = _ints(rng, max(1, (k + 1) // 2), k)
    return [[int(rng.integers(1, 9)) * v for v in rows[i % len(rows)]] for i in range(k)]


def opposite(rng: Rng, k: int) -> Rows:
    rows = _ints(rng, k, k + 1)
    rows[-1] = [-v for v in rows[0]]
    return rows


def opposite_scaled(rng: Rng, k: int) -> Rows:
    rows = _ints(rng, k, k + 1, 200)
    rows[-1] = [-int(rng.integers(2, 100)) * v for v in rows[0]]
    return rows


def with_zero(rng: Rng, k: int) -> Rows:
    rows = _ints(rng, k, k)
    rows[int(rng.integers(k))] = [0] * k
    return rows


def near_collinear(rng: Rng, k: int) -> Rows:
    """All rows one large vector plus noise of 1: cosines 1 - 1e-10."""
    base = _ints(rng, 1, k + 2, 2**20)[0]
    noise = _ints(rng, k, k + 2, 1)
    return [[b + n for b, n in zip(base, row, strict=True)] for row in noise]


def nearly_equal_pair(rng: Rng, k: int) -> Rows:
    """Two rows at an angle of about 1e-7, the rest random."""
    rows = _ints(rng, k, k, 2**22)
    rows[-1] = list(rows[0])
    rows[-1][0] += 1
    return rows


def nearly_opposite(rng: Rng, k: int) -> Rows:
    rows = _ints(rng, k, k, 2**20)
    rows[-1] = [-v for v in rows[0]]
    rows[-1][-1] += 1
    return rows


def strongly_conflicting(rng: Rng, k: int) -> Rows:
    """Every pair at an obtuse angle: k·e_i - 1, almost stationary."""
    return [[(k if i == j else 0) - 1 + int(rng.integers(0, 2)) * (j == k) for j in range(k + 1)] for i in range(k)]


def stationary(rng: Rng, k: int) -> Rows:
    """The rows sum to zero: the minimum is 0, inside."""
    rows = _ints(rng, k - 1, k + 1)
    return [*rows, [-sum(column) for column in zip(*rows, strict=True)]]


def weakly_stationary(rng: Rng, k: int) -> Rows:
    """Zero is a combination of the first half only."""
    rows = _ints(rng, k, k + 1)
    half = max(2, k // 2)
    rows[half - 1] = [-sum(column) for column in zip(*rows[: half - 1], strict=True)]
    return rows


def orthogonal(rng: Rng, k: int) -> Rows:
    return [[int(rng.integers(1, 1000)) if i == j else 0 for j in range(k)] for i in range(k)]


def boundary(rng: Rng, k: int) -> Rows:
    """Multipliers that are exactly zero off the support: e_1 and rows with the same first entry."""
    return [[100, *([0] * (k - 1))]] + [
        [100 + (i % 2), *(int(rng.integers(1, 100)) * (i == j) for j in range(1, k))] for i in range(1, k)
    ]


def ill_conditioned(rng: Rng, k: int) -> Rows:
    """Rows (j + i)^2-like, a smooth kernel whose Gramian has eigenvalues down to rounding."""
    shift = int(rng.integers(1, 9))
    return [[1_000_000 // (i + j + shift) for j in range(k + 2)] for i in range(k)]


def clusters(rng: Rng, k: int) -> Rows:
    """A few directions, each shared by several almost equal rows."""
    centres = _ints(rng, max(2, k // 4), k + 1, 2**18)
    return [[v + int(rng.integers(-2, 3)) for v in centres[i % len(centres)]] for i in range(k)]


def dominated(rng: Rng, k: int) -> Rows:
    """One short row, the others far longer and in its half space."""
    rows = [[abs(v) * 500 for v in row] for row in _ints(rng, k, k, 100)]
    rows[int(rng.integers(k))] = [int(v) for v in rng.integers(1, 4, size=k)]
    return rows


FAMILIES: list[Callable[[Rng, int], Rows]] = [
    random_full_rank,
    rank_deficient,
    rank_one,
    duplicates,
    multiples,
    opposite,
    opposite_scaled,
    with_zero,
    near_collinear,
    nearly_equal_pair,
    nearly_opposite,
    strongly_conflicting,
    stationary,
    weakly_stationary,
    orthogonal,
    boundary,
    ill_conditioned,
    clusters,
    dominated,
]


# --- σ and scales ---------------------------------------------------------------------------------


def _softmax(a: Vector) -> Vector:
    e = np.exp(a - a.max())
    out: Vector = np.maximum(e / e.sum(), 1e-12)
    return out


def _sigma(kind: str, rng: Rng, gram: Vector) -> Vector:
    k = len(gram)
    norms = np.sqrt(np.diag(gram))
    if kind == "ones":
        return np.ones(k)
    if kind == "near 0":
        return np.maximum(10.0 ** rng.uniform(-12, 0, size=k), 1e-12)
    if kind == "near 1":
        s = np.full(k, 1e-9)
        s[rng.integers(k)] = 1 - 1e-9 * (k - 1)
        return s
    if kind == "softmax of norms":
        return _softmax(norms / max(norms.mean(), 1e-300))
    if kind == "softmax of cosines":
        unit = np.where(norms > 0, norms, 1.0)
        return _softmax((gram / unit[:, None] / unit).mean(1))
    raise ValueError(kind)


SIGMAS = ["ones", "near 0", "near 1", "softmax of norms", "softmax of cosines"]
#: how far the exponents of two gradients may lie apart; 66 is 1e±20
SCALES = [0, 3, 20, 66]


def hard_set(count: int = 2400, seed: int = 0, k_max: int = 64) -> Iterator[Problem]:
    """`count` problems: every family with every σ and scale in turn, k from 2 to `k_max`, mostly small."""
    rng = np.random.default_rng(seed)
    small = [k for k in [2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16] if k <= k_max]
    large = [k for k in [20, 24, 32, 33, 40, 48, 57, 64] if k <= k_max] or small
    for n in range(count):
        family = FAMILIES[n % len(FAMILIES)]
        sizes = large if rng.random() < 0.06 else small
        k = int(sizes[rng.integers(len(sizes))])
        rows = family(rng, k)
        scale = SCALES[(n // len(FAMILIES)) % len(SCALES)]
        exponents = [int(v) for v in rng.integers(-scale, scale + 1, size=k)]
        bare = Problem(family.__name__, rows, exponents, [1.0] * k)
        sigma = _sigma(SIGMAS[(n // (len(FAMILIES) * len(SCALES))) % len(SIGMAS)], rng, bare.gram().numpy())
        yield Problem(family.__name__, rows, exponents, [float(v) for v in sigma])


# --- the exact minimum ----------------------------------------------------------------------------


def _integers(values: list[float], exponents: list[int]) -> tuple[list[int], int]:
    """values[i] * 2**exponents[i] as integers times one common 2**shift."""
    parts = [Fraction(v) for v in values]
    low = min(e - p.denominator.bit_length() + 1 for p, e in zip(parts, exponents, strict=True))
    return [int(p * Fraction(2) ** (e - low)) for p, e in zip(parts, exponents, strict=True)], low


def _solve_integers(matrix: list[list[int]], right: list[int]) -> list[Fraction] | None:
    """Bareiss elimination: the exact solution, None for a singular matrix."""
    n = len(matrix)
    a = [[*row, r] for row, r in zip(matrix, right, strict=True)]
    previous = 1
    for p in range(n):
        pivot_row = next((i for i in range(p, n) if a[i][p]), None)
        if pivot_row is None:
            return None
        a[p], a[pivot_row] = a[pivot_row], a[p]
        pivot, top = a[p][p], a[p]
        for i in range(p + 1, n):
            row = a[i]
            factor = row[p]
            a[i] = [0] * (p + 1) + [(row[j] * pivot - factor * top[j]) // previous for j in range(p + 1, n + 1)]
        previous = pivot
    # back substitution over one common denominator, the determinant (Cramer)
    det = a[n - 1][n - 1]
    x = [0] * n
    for i in reversed(range(n)):
        x[i] = (a[i][n] * det - sum(a[i][j] * x[j] for j in range(i + 1, n))) // a[i][i]
    return [Fraction(v, det) for v in x]


@dataclass(frozen=True)
class Minimum:
    value: Fraction
    lam: list[Fraction]


def exact_minimum(problem: Problem, guess: list[int] | None = None) -> Minimum:
    """The minimum of λᵀGλ and a minimiser in fractions, proved by exact optimality conditions.

    `guess` is a support to try first; it saves time for large k and cannot change the answer.
    """
    inner = problem.inner()
    k = problem.k
    sigma, shift = _integers(problem.sigma, [-e for e in problem.exponents])
    matrix = [[inner[i][j] + sigma[i] * sigma[j] for j in range(k)] for i in range(k)]

    def stationary_point(support: list[int]) -> list[Fraction] | None:
        return _solve_integers([[matrix[i][j] for j in support] for i in support], [sigma[i] for i in support])

    def multipliers(support: list[int], x: list[Fraction]) -> list[Fraction]:
        return [sum((matrix[i][j] * v for j, v in zip(support, x, strict=True)), Fraction(-sigma[i])) for i in range(k)]

    def minimum(support: list[int], x: list[Fraction]) -> Minimum:
        t = sum((sigma[j] * v for j, v in zip(support, x, strict=True)), Fraction(0))
        unit = Fraction(2) ** shift
        lam = [Fraction(0)] * k
        for j, v in zip(support, x, strict=True):
            lam[j] = v / t / unit / Fraction(2) ** problem.exponents[j]
        return Minimum((1 - t) / t / unit**2, lam)

    if guess:
        x = stationary_point(guess)
        if x is not None and min(x) >= 0 and min(multipliers(guess, x)) >= 0:
            return minimum(guess, x)

    support: list[int] = []
    x = []
    while True:  # Lawson and Hanson; terminates because every round lowers the objective
        w = multipliers(support, x)
        worst = min(range(k), key=lambda i: w[i])
        if w[worst] >= 0:
            return minimum(support, x)
        support, x = [*support, worst], [*x, Fraction(0)]
        while True:
            target = stationary_point(support)
            assert target is not None  # an improving column is independent of the support
            if min(target) > 0:
                x = target
                break
            step = min(a / (a - b) for a, b in zip(x, target, strict=True) if b <= 0)
            x = [a + step * (b - a) for a, b in zip(x, target, strict=True)]
            keep = [i for i, v in enumerate(x) if v > 0]
            support, x = [support[i] for i in keep], [x[i] for i in keep]


def exact_objective(problem: Problem, lam: Tensor) -> Fraction:
    """λᵀGλ / (Σ λσ)² for the given float64 λ, without rounding."""
    values, shift = _integers(lam.tolist(), problem.exponents)
    inner = problem.inner()
    top = sum(values[i] * values[j] * inner[i][j] for i in range(problem.k) for j in range(problem.k))
    total = sum((Fraction(v) * Fraction(s) for v, s in zip(lam.tolist(), problem.sigma, strict=True)), Fraction(0))
    return Fraction(top) * Fraction(2) ** (2 * shift) / total**2


def best_single(problem: Problem) -> Fraction:
    """The objective with all weight on the best single task, min_i G_ii/σ_i²."""
    inner = problem.inner()
    return min(
        Fraction(inner[i][i]) * Fraction(2) ** (2 * problem.exponents[i]) / Fraction(problem.sigma[i]) ** 2
        for i in range(problem.k)
    )


def excess(problem: Problem, lam: Tensor, least: Minimum | None = None) -> float:
    """How far λ is above the exact minimum, in units of the best single task."""
    least = least or exact_minimum(problem, [i for i, v in enumerate(lam.tolist()) if v > 0])
    above = exact_objective(problem, lam) - least.value
    return float(above / (best_single(problem) or 1))


def rounding_excess(problem: Problem) -> float:
    """`excess` of the exact minimiser after rounding to float64: what no float64 answer can be blamed for.

    It is tiny but for minimisers in which gradients of 1e8 times the length of the combined one cancel.
    """
    least = exact_minimum(problem)
    return excess(problem, torch.tensor([float(v) for v in least.lam], dtype=torch.float64), least)


def cancellation(problem: Problem, lam: list[Fraction]) -> float:
    """Σ ‖λ_ig_i‖ in units of the best single task, at least 1: how the Gramian's rounding is amplified."""
    inner, e = problem.inner(), problem.exponents
    lengths = [
        float(v * Fraction(2) ** ei) * math.sqrt(inner[i][i]) for i, (v, ei) in enumerate(zip(lam, e, strict=True))
    ]
    return max(1.0, sum(lengths) / (math.sqrt(best_single(problem)) or 1.0))


def kkt_residual(problem: Problem, lam: Tensor) -> float:
    """Largest violation of stationarity, signs and Σ λσ = 1, for gradients of unit norm, evaluated exactly.

    In units where the best single task has objective 1: |g_i·d - fσ_i| / ‖g_i‖ on the support and its
    negative part off it, relative to the size Σ_j |cos_ij| ‖λ_jg_j‖ of the terms of g_i·d if above 1.
    """
    k, inner, e = problem.k, problem.inner(), problem.exponents
    lam_f = [Fraction(v) * Fraction(2) ** ei for v, ei in zip(lam.tolist(), e, strict=True)]
    sigma = [Fraction(s) / Fraction(2) ** ei for s, ei in zip(problem.sigma, e, strict=True)]
    total = sum((a * b for a, b in zip(lam_f, sigma, strict=True)), Fraction(0))
    worst = abs(float(total - 1))
    best = math.sqrt(best_single(problem))
    if best == 0:
        return max(worst, math.sqrt(exact_objective(problem, lam)))
    g = [sum((inner[i][j] * lam_f[j] for j in range(k)), Fraction(0)) for i in range(k)]
    f = sum((a * b for a, b in zip(lam_f, g, strict=True)), Fraction(0))
    for i in range(k):
        norm = math.sqrt(inner[i][i])
        if norm == 0:
            continue
        terms = sum(abs(inner[i][j]) / norm * float(lam_f[j]) for j in range(k)) / best
        w = float(g[i] - f * sigma[i]) / norm / best / max(1.0, terms)
        worst = max(worst, abs(w) if lam_f[i] > 0 else -w)
    return worst
