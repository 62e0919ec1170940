"""What every candidate does to the loss: the integrated gradients of Eq. 5.5, all at once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pcl.models.growth.overgrown import OverGrown, Site
from pcl_kernels import firefly_score

Objective = Callable[[Callable[..., Any], Any], Tensor]


def scores(
    network: OverGrown, batches: Sequence[Any], objective: Objective, *, points: int = 3
) -> dict[str, tuple[Tensor, Tensor]]:
    """s_i = 1/epsilon_i * integral of dL/dzeta_i over zeta_i from 0 to epsilon_i (Eq. 5.5), others at their epsilon.

    A candidate's own path to the next layers leads through its own channel alone. So with g, the gradient of the loss
    at the place where those layers read the channel, taken once at epsilon and held along the path,

        s_i = 1/n sum_z <g_i, dh_i/dzeta_i>        at zeta_i = (2z - 1) / (2n) epsilon_i

    costs one forward and backward pass for all candidates, and differs from Eq. 5.5 by O(epsilon), as that expansion
    itself does. Behind the fast path it is ``pcl_kernels.firefly_score`` with n points; elsewhere, and for new neurons,
    whose path is straight, the integral is taken exactly: <g_i, h_i(epsilon_i) - h_i(0)> / epsilon_i. A channel that is
    read in several places has one term for each.

    Args:
        network: the over-grown network.
        batches: the loss is the mean over them.
        objective: ``objective(f, batch)``, a scalar.
        points: n.

    Returns:
        By group, float64 scores of old ``(m,)`` and new ``(m',)`` neurons; 0 for a step of 0.
    """
    change: dict[str, tuple[Tensor, Tensor]] = {}
    for name, own in network.candidates.groups.items():
        change[name] = tuple(e.new_zeros(e.shape, dtype=torch.float64).detach() for e in (own.epsilon, own.epsilon_new))  # type: ignore[assignment]
    for batch in batches:
        network.sites = []
        try:
            loss = objective(network, batch)
            sites = network.sites
        finally:
            network.sites = None
        found = torch.autograd.grad(loss, [site.value for site in sites], allow_unused=True)
        for site, gradient in zip(sites, found, strict=True):
            if gradient is not None:
                _add(change[site.group], site, gradient, points)
    result = {}
    for name, (old, new) in change.items():
        own = network.candidates.groups[name]
        steps = (own.epsilon.detach() * own.allowed, own.epsilon_new.detach())
        result[name] = tuple(
            torch.where(e == 0, 0, c / torch.where(e == 0, 1, e)) / len(batches)
            for c, e in zip((old, new), steps, strict=True)
        )
    return result  # type: ignore[return-value]


def _add(total: tuple[Tensor, Tensor], site: Site, gradient: Tensor, points: int) -> None:
    """The predicted change of the loss, by candidate."""
    old, new = total
    width = len(old) * site.repeat
    if site.fast is not None:
        given = site.fast
        old += given["epsilon"] * firefly_score(grad=gradient[:, :width].contiguous(), points=points, **given)
        product = gradient[:, width:] * site.change[:, width:]
        new += _by_channel(product, 1, site.repeat)
        return
    by_channel = _by_channel(gradient * site.change, site.axis, site.repeat)
    old += by_channel[: len(old)]
    if len(by_channel) > len(old):
        new += by_channel[len(old) :]


def _by_channel(product: Tensor, axis: int, repeat: int) -> Tensor:
    others = [d for d in range(product.dim()) if d != axis]
    return product.sum(others, dtype=torch.float64).view(-1, repeat).sum(1)
