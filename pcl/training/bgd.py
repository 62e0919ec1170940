"""Bayesian gradient descent: every parameter has a mean and a deviation, and those that are sure move less."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pcl.randomness import generator
from pcl.training.step_data import StepData
from pcl.training.step_result import Descent

if TYPE_CHECKING:
    from pcl.training.trainer import Trainer


class BGD(torch.optim.Optimizer):
    """Zeno, Golan, Hoffer and Soudry, "Task Agnostic Continual Learning Using Online Variational Bayes",
    arXiv 1803.10123, Algorithm 1.

    Every parameter is normal, theta_i = mu_i + sigma_i eps_i with a standard normal eps_i. With g the gradient of
    -log p(data | theta), and E the mean over ``draws`` such theta, a step is

        mu_i    <- mu_i - lr sigma_i^2 E[g_i]
        sigma_i <- sigma_i (sqrt(1 + a_i^2) - a_i),    a_i = 1/2 sigma_i E[g_i eps_i],

    which is the closed form of one step of online variational Bayes where lr is 1. Nothing in it knows of tasks: where
    the loss is curved along a parameter its sigma shrinks, and with it the steps that it can make. Outside of a step
    parameters are mu, with which predictions are made.

    The Trainer makes the steps; on one's own::

        with optimizer.sampling():
            for _ in range(optimizer.draws):
                optimizer.draw()
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()

    Args:
        params: as for any optimizer.
        lr: eta.
        std: sigma in the beginning, of every parameter. The published code has 0.02.
        draws: K, gradients in a step. The published code has 10.
        samples: what gradients are multiplied with. The data's likelihood is a product over samples where losses here
            are means, so that this should be the batch size.
        seed: of the draws.

    Raises:
        ValueError: for a count below 1, or another number that is not above 0.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 1.0,
        std: float = 0.02,
        draws: int = 10,
        samples: float = 1.0,
        seed: int = 0,
    ) -> None:
        for name, value in (("lr", lr), ("std", std), ("samples", samples)):
            if not 0 < value < float("inf"):
                raise ValueError(f"BGD: expected a finite {name} above 0, got {value}")
        if draws < 1:
            raise ValueError(f"BGD: expected draws >= 1, got {draws}")
        defaults = {"lr": lr, "std": std, "draws": draws, "samples": samples}
        super().__init__(params, {**defaults, "differentiable": False})  # torch would add it when a state is loaded
        self._generator = generator(seed, "bgd", device=self.param_groups[0]["params"][0].device)
        self._means: dict[Tensor, Tensor] | None = None  # within sampling()
        self._noise: dict[Tensor, Tensor] = {}  # eps of the present draw
        self._sums: dict[Tensor, tuple[Tensor, Tensor]] = {}  # over draws: of g, of g eps

    @property
    def draws(self) -> int:
        """K."""
        return int(self.param_groups[0]["draws"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Parameters that join get their sigma at once."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        for p in group["params"]:
            self.state[p]["std"] = torch.full_like(p, group["std"], requires_grad=False)

    @contextmanager
    def sampling(self, bad: Tensor | None = None) -> Iterator[None]:
        """A step: mu and sigma change at the end of the block, and not at all if it raises.

        Args:
            bad: a scalar on the device; where it is not 0 at the end of the block, nothing changes either.
        """
        self._sums = {}
        self._means = {p: p.detach().clone() for group in self.param_groups for p in group["params"]}
        try:
            yield
            with torch.no_grad():
                self._learn(self._means, bad)
        finally:
            with torch.no_grad():
                for p, mean in self._means.items():
                    p.copy_(mean)
            self._means = None

    @torch.no_grad()
    def draw(self) -> None:
        """Let the parameters be another theta; frozen ones stay."""
        means = self._in_a_step()
        for p, mean in means.items():
            if p.requires_grad:
                if p not in self._noise:
                    self._noise[p] = torch.empty_like(mean)
                noise = self._noise[p].normal_(generator=self._generator)
                p.copy_(mean).addcmul_(self.state[p]["std"], noise)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take in the gradients at the present draw.

        Raises:
            RuntimeError: outside of :meth:`sampling`.
        """
        self._in_a_step()
        for p, noise in self._noise.items():
            if p.grad is None:
                continue
            if p in self._sums:
                g, g_noise = self._sums[p]
                g.add_(p.grad)
                g_noise.addcmul_(p.grad, noise)
            else:
                self._sums[p] = (p.grad.clone(), p.grad * noise)

    def _in_a_step(self) -> dict[Tensor, Tensor]:
        if self._means is None:
            raise RuntimeError("BGD: a step takes gradients at several draws; make them within `with sampling():`")
        return self._means

    def _learn(self, means: dict[Tensor, Tensor], bad: Tensor | None) -> None:
        for group in self.param_groups:
            scale = group["samples"] / group["draws"]
            for p in group["params"]:
                if p not in self._sums:
                    continue
                g, g_noise = (scale * total for total in self._sums[p])
                std, mean = self.state[p]["std"], means[p]
                moved = mean - group["lr"] * std.square() * g
                # sqrt(1 + a^2) - a is exp(-asinh(a)), which does not cancel to 0 where a is large
                narrowed = std * torch.exp(-torch.asinh(0.5 * std * g_noise))
                for now, then in ((mean, moved), (std, narrowed)):
                    now.copy_(then if bad is None else torch.where(bad > 0, now, then))

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer, with where the draws stand."""
        return {**super().state_dict(), "draws": self._generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._generator.set_state(state_dict["draws"])
        super().load_state_dict({name: state_dict[name] for name in ("state", "param_groups")})

    def rewinder(self) -> Callable[[], None]:
        """A function that lets the draws go on from where they stand now."""
        state = self._generator.get_state()

        def rewind() -> None:
            self._generator.set_state(state)

        return rewind


def sampled_descent(trainer: "Trainer", optimizer: BGD, data: StepData) -> Descent:
    """A step with the gradients of all draws; losses and direction are their means, the rest is that of the last."""
    found: list[Descent] = []
    direction: list[Tensor | None] = []
    with optimizer.sampling(trainer._guard.bad):
        for _ in range(optimizer.draws):
            optimizer.draw()
            descent = trainer._descend(data)
            direction = _add(direction, descent.direction)
            found.append(replace(descent, direction=[]))  # let go of its gradients
    flags = [descent.flags for descent in found if descent.flags is not None]
    return replace(
        found[-1],
        losses=torch.stack([descent.losses for descent in found]).mean(dim=0),
        direction=[None if total is None else total.div_(len(found)) for total in direction],
        flags=torch.stack(flags).any(dim=0) if flags else None,
    )


def _add(totals: list[Tensor | None], parts: list[Tensor | None]) -> list[Tensor | None]:
    """Sums so far with the parts of another draw; where a parameter has no part in it, its sum stays."""
    if not totals:
        return [None if part is None else part.detach().clone() for part in parts]
    return [
        total if part is None else part.detach().clone() if total is None else total.add_(part)
        for total, part in zip(totals, parts, strict=True)
    ]
