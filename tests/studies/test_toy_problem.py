"""Fig. 2 of the EMGD paper against a float64 NumPy run that shares no code with the library."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from studies import toy_problem

Vector = NDArray[np.float64]


def losses_and_gradients(p: Vector) -> tuple[Vector, Vector]:
    """f1, f2 and their gradients ``(2, 2)``, derived by hand."""
    x, y = p
    u, v = 1 - np.exp(x) * np.sin(y), 0.1 + np.exp(y) * np.cos(x)
    losses = np.array([np.log(1 + x**2) + 0.8 * u**2, np.log(1 + y**2) + 0.004 * v**2])
    g1 = [2 * x / (1 + x**2) - 1.6 * u * np.exp(x) * np.sin(y), -1.6 * u * np.exp(x) * np.cos(y)]
    g2 = [-0.008 * v * np.exp(y) * np.sin(x), 2 * y / (1 + y**2) + 0.008 * v * np.exp(y) * np.cos(x)]
    return losses, np.array([g1, g2])


def two_task_weights(g: Vector, sigma: Vector) -> Vector:
    """Eq. 23 with its two cases at the border; sigma = 1 gives Eq. 21."""
    (a, b), (_, c) = g @ g.T
    if sigma[0] * c < sigma[1] * b:
        return np.array([0, 1 / sigma[1]])
    if sigma[1] * a < sigma[0] * b:
        return np.array([1 / sigma[0], 0])
    length = np.sum((sigma[1] * g[0] - sigma[0] * g[1]) ** 2)
    return np.array([sigma[0] * c - sigma[1] * b, sigma[1] * a - sigma[0] * b]) / length


def softmax(score: Vector) -> Vector:
    floor = 1e-4
    weights = np.exp(score - score.max())
    return (1 - len(score) * floor) * weights / weights.sum() + floor


def mean(g: Vector, state: dict[str, Vector]) -> Vector:
    return np.full(2, 0.5)


def mgda(g: Vector, state: dict[str, Vector]) -> Vector:
    return two_task_weights(g, np.ones(2))


def gmc(g: Vector, state: dict[str, Vector]) -> Vector:
    norms = np.linalg.norm(g, axis=1)
    if "m2" in state:
        state["m"] = 0.9 * state["m"] + 0.1 * norms
    else:  # f2 has just come: it starts at its first norm
        state["m"], state["m2"] = np.array([0.9 * state["m1"] + 0.1 * norms[0], norms[1]]), norms
    return two_task_weights(g, softmax(state["m"]))


def gs(g: Vector, state: dict[str, Vector]) -> Vector:
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    return two_task_weights(g, softmax((unit @ unit.T).sum(axis=1)))


REFERENCES: dict[str, Callable[[Vector, dict[str, Vector]], Vector]] = {
    "mean": mean,
    "MGDA": mgda,
    "EMGD (GMC)": gmc,
    "EMGD (GS)": gs,
}


def reference(weigh: Callable[[Vector, dict[str, Vector]], Vector]) -> Vector:
    """Losses at iteration 500 and at the end."""
    p, state, found = np.array([3.0, 3.0]), {}, []
    for iteration in range(1500):
        losses, g = losses_and_gradients(p)
        if iteration < 500:
            norm = np.linalg.norm(g[0])
            state["m1"] = norm if iteration == 0 else 0.9 * state["m1"] + 0.1 * norm
            direction = g[0]
        else:
            if iteration == 500:
                found.append(losses)
            direction = weigh(g, state) @ g
        p = p - 2e-5 * direction
    return np.stack([*found, losses_and_gradients(p)[0]])


@pytest.fixture(scope="module")
def paths() -> dict[str, Vector]:
    return {name: toy_problem.descend(make()).numpy() for name, make in toy_problem.WEIGHTINGS.items()}


@pytest.mark.parametrize("name", REFERENCES)
def test_losses_equal_the_numpy_run(name: str, paths: dict[str, Vector]) -> None:
    assert paths[name][[500, 1500], 2:] == pytest.approx(reference(REFERENCES[name]), rel=1e-9)


def test_what_the_figure_says(paths: dict[str, Vector]) -> None:
    """The mean sells the old task for the new one; MGDA is slow on the new one; EMGD improves both, faster."""
    change = {name: path[1500, 2:] - path[500, 2:] for name, path in paths.items()}
    assert change["mean"][0] > 0
    for name in ("MGDA", "EMGD (GMC)", "EMGD (GS)"):
        assert (change[name] < 0).all()
    assert change["EMGD (GMC)"][1] < 2 * change["MGDA"][1]
    assert change["EMGD (GMC)"][1] < change["mean"][1]
