"""Random generators: every consumer of randomness owns one, named, and none shares draws with another.

Seeding neighbours with ``seed + n`` makes run 1 of consumer 2 repeat run 2 of consumer 1. Here the seed of a
generator is a hash of the run's seed and of the consumer's name, so that all of them are independent.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def derived_seed(seed: int, *names: object) -> int:
    """A 63-bit seed, the leading bits of SHA-256 over ``seed`` and ``names``."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator of its own for the consumer called ``names`` in the run with this ``seed``."""
    return torch.Generator(device).manual_seed(derived_seed(seed, *names))


def drawn_seed(draws: torch.Generator) -> int:
    """The next 63 bits of a generator, as a seed for draws that compiled code makes."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=draws).item())


@contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Run a block under torch's global CPU generator seeded by name, and give it back as it was.

    For code that offers no generator argument, like the initialisers of ``torch.nn`` layers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derived_seed(seed, *names))
        yield


def global_generators(device: torch.device) -> list[Tensor]:
    """States of torch's global generators that layers such as dropout draw from: CPU, and the model's GPU."""
    return [torch.default_generator.get_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_global_generators(states: list[Tensor], device: torch.device) -> None:
    """Let them go on from those states."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
