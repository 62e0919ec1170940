"""Springs on the parameters: the quadratic that EWC, SI and MAS have in common."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from pcl.gradients.result import Gradient

Protect = Literal["backbone", "all"]


class Spring(NamedTuple):
    """Of every number of a parameter, both in its shape: stiffness k >= 0, and where it rests."""

    stiffness: Tensor
    rest: Tensor


class Springs:
    """E(theta) = 1/2 sum_j k_j (theta_j - r_j)^2 + e, with the gradient k (theta - r).

    Springs that pull one number to several places are one spring,

        k (theta - r)^2 + s (theta - a)^2 = (k + s) (theta - r')^2 + k s / (k + s) (a - r)^2,
        r' = r + s / (k + s) (a - r),

    so that two numbers per parameter are enough for any count of finished tasks (Huszár, "On quadratic penalties in
    elastic weight consolidation", 2017), and e collects the last terms.

    Plain gradient descent with the learning rate gamma is stable only where gamma k < 2: a penalty that makes a run
    with SGD diverge is too strong for its learning rate. Adam, whose steps are bounded, does not mind.

    Args:
        protect: ``"backbone"``, or ``"all"`` for the heads too. Frozen parameters have no springs attached.

    Raises:
        ValueError: for another word.
    """

    def __init__(self, protect: Protect = "backbone") -> None:
        if protect not in ("backbone", "all"):
            raise ValueError(f"protect: expected 'backbone' or 'all', got {protect!r}")
        self.protect = protect
        self._springs: dict[str, Spring] = {}
        self._energy = 0.0

    def holds(self, name: str) -> bool:
        """Whether a parameter of this name is to be protected."""
        return self.protect == "all" or name.startswith("backbone.")

    def parameters(self, model: nn.Module) -> dict[str, Tensor]:
        """Those of a model that are to be protected, by name."""
        return {name: p for name, p in model.named_parameters() if p.requires_grad and self.holds(name)}

    def __contains__(self, name: str) -> bool:
        return name in self._springs

    def __getitem__(self, name: str) -> Spring:
        return self._springs[name]

    @torch.no_grad()
    def attach(self, stiffness: Mapping[str, Tensor], at: Mapping[str, Tensor]) -> None:
        """Beside what is there, springs that rest where the parameters are now."""
        for name, added in stiffness.items():
            place = at[name].detach().clone()
            if name not in self._springs:
                self._springs[name] = Spring(added, place)
                continue
            k, rest = self._springs[name]
            total, apart = k + added, place - rest
            share = torch.where(total > 0, added / total, 1.0)
            self._springs[name] = Spring(total, rest + share * apart)
            self._energy += 0.5 * float((k * share * apart.square()).double().sum())

    @torch.no_grad()
    def renew(self, stiffness: Mapping[str, Tensor], at: Mapping[str, Tensor], *, keep: float = 1.0) -> None:
        """Let all springs rest where the parameters are now, with the stiffness ``keep`` times the old plus this."""
        for name, added in stiffness.items():
            total = keep * self._springs[name].stiffness + added if name in self._springs else added
            self._springs[name] = Spring(total, at[name].detach().clone())

    @torch.no_grad()
    def gradient(self, parameters: Mapping[str, Tensor]) -> Gradient:
        """k (theta - r) by parameter; None where there is no spring."""
        known = [(p, *self._springs[name]) for name, p in parameters.items() if name in self._springs]
        if not known:
            return [None] * len(parameters)
        now, stiffness, rest = (list(part) for part in zip(*known, strict=True))
        forces = torch._foreach_sub(now, rest)
        torch._foreach_mul_(forces, stiffness)
        force = iter(forces)
        return [next(force) if name in self._springs else None for name in parameters]

    @torch.no_grad()
    def value(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """E, a float64 scalar."""
        device = next((p.device for p in parameters.values()), None)
        energy = torch.full((), self._energy, dtype=torch.float64, device=device)
        for name, p in parameters.items():
            if name in self._springs:
                k, rest = self._springs[name]
                energy += 0.5 * (k.double() * (p.double() - rest.double()).square()).sum()
        return energy

    def state_dict(self) -> dict[str, Any]:
        """All springs, by the names of their parameters."""
        return {"springs": {name: list(spring) for name, spring in self._springs.items()}, "energy": self._energy}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Have these springs and no others."""
        self._springs = {
            name: Spring(*(part.to(device, copy=True) for part in spring)) for name, spring in state["springs"].items()
        }
        self._energy = state["energy"]
