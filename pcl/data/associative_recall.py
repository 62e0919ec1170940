"""Multi-query associative recall (MQAR): which value stood behind this key?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Recall(NamedTuple):
    """``tokens (n, length)``, places of the queries ``queries (n, pairs)``, answers to them ``values (n, pairs)``.

    All int64. The j-th query is the j-th key.
    """

    tokens: Tensor
    queries: Tensor
    values: Tensor


def associative_recall(
    n: int,
    *,
    length: int,
    pairs: int,
    vocabulary: int,
    generator: torch.Generator,
    noise: int = 1,
    power: float = 0.01,
) -> Recall:
    """n sequences k_1 v_1 ... k_pairs v_pairs, then every key once more as a query, at a gap that follows a power law.

    Queries stand at every second place at most. The g-th of these places behind the pairs is taken with a probability
    that goes as g^(power - 1), without replacement; noise fills the others. The answer to a query is the value that
    stood behind its key; it does not come again.

    Args:
        n: sequences.
        length: tokens in each.
        pairs: distinct keys, and distinct values, in each.
        vocabulary: tokens: first ``noise`` of noise, then of the others half keys and half values.
        generator: of all draws.
        noise: kinds of noise; 1 is a blank.
        power: 1 makes every place as likely as any other.

    Raises:
        ValueError: where the pairs and their queries do not fit into the length, or the pairs into the vocabulary.

    Source: Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models" (2023), Sec. 4, whose
    sizes are (length, pairs) = (64, 4), (128, 8), (256, 16), (512, 64); Bo Liu's dissertation (2025), Sec. 6.4.1.
    """
    places, kinds = (length - 2 * pairs) // 2, (vocabulary - noise) // 2
    if pairs < 1 or places < pairs:
        raise ValueError(
            f"associative_recall: {pairs} pairs and their queries need a length of {4 * pairs}, got {length}"
        )
    if noise < 1 or kinds < pairs:
        raise ValueError(
            f"associative_recall: {pairs} pairs need a vocabulary of at least {2 * pairs} beside noise of at least 1, "
            f"got {vocabulary} with {noise} of noise"
        )

    def distinct() -> Tensor:
        return torch.rand(n, kinds, generator=generator).argsort(1)[:, :pairs]

    keys = noise + distinct()
    values = noise + kinds + distinct()
    chance = torch.arange(1, places + 1).double() ** (power - 1)
    gaps = torch.multinomial(chance.expand(n, -1), pairs, generator=generator)
    queries = 2 * pairs + 2 * gaps
    tokens = torch.randint(noise, (n, length), generator=generator)
    tokens[:, 0 : 2 * pairs : 2] = keys
    tokens[:, 1 : 2 * pairs : 2] = values
    return Recall(tokens.scatter(1, queries, keys), queries, values)
