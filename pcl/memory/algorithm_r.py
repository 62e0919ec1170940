"""Which samples a uniform sample of all that went by keeps."""

import torch


def places(seen: int, count: int, capacity: int, draws: torch.Generator) -> dict[int, int]:
    """By place, which of the next ``count`` samples stays there, when ``seen`` have gone by (Vitter 1985, Algorithm R).

    Sample number i, from 1, takes a place that is drawn from i places and is dropped if it is not among the first
    ``capacity``; the first ``capacity`` samples take one each. So each sample seen is kept with probability
    capacity / i. Of several for one place the last stays, as if they had come one by one. It follows from counts alone
    and is drawn on the CPU, so that a GPU is not waited for.
    """
    uniform = torch.rand(count, generator=draws, dtype=torch.float64).tolist()
    early = max(0, min(count, capacity - seen))
    found = {seen + i: i for i in range(early)}
    for i in range(early, count):
        place = uniform[i] * (seen + i + 1)
        if place < capacity:
            found[int(place)] = i
    return found
