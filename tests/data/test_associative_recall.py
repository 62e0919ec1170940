"""Multi-query associative recall: what a sequence holds, and where its queries stand."""

import pytest
import torch

from pcl.data.associative_recall import Recall, associative_recall

SIZES = [(64, 4, 256, 1), (128, 8, 64, 5), (256, 16, 8192, 1), (16, 4, 9, 1), (17, 3, 13, 6), (4, 1, 3, 1)]


def drawn(length: int, pairs: int, vocabulary: int, noise: int, n: int = 200, seed: int = 0) -> Recall:
    generator = torch.Generator().manual_seed(seed)
    return associative_recall(
        n, length=length, pairs=pairs, vocabulary=vocabulary, noise=noise, generator=generator, power=0.01
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_query_asks_for_a_key_that_has_one_value(sizes: tuple[int, int, int, int]) -> None:
    length, pairs, vocabulary, noise = sizes
    kinds = (vocabulary - noise) // 2
    found = drawn(*sizes)
    assert found.tokens.shape == (200, length)
    for tokens, queries, values in zip(*(t.tolist() for t in found), strict=True):
        memory = dict(zip(tokens[0 : 2 * pairs : 2], tokens[1 : 2 * pairs : 2], strict=True))
        assert len(memory) == len(set(memory.values())) == pairs
        assert all(noise <= key < noise + kinds <= value < noise + 2 * kinds for key, value in memory.items())
        assert sorted(tokens[t] for t in queries) == sorted(memory)  # every key once
        assert [memory[tokens[t]] for t in queries] == values
        rest = set(range(2 * pairs, length)) - set(queries)
        assert len(set(queries)) == pairs
        assert all(t >= 2 * pairs and t % 2 == 0 for t in queries)
        assert all(0 <= tokens[t] < noise for t in rest)


def test_the_same_generator_draws_the_same() -> None:
    one, other, third = (drawn(*SIZES[0], seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one.tokens, third.tokens)


def test_all_tokens_are_drawn_alike() -> None:
    """Of 40 keys and 40 values, each turns up in one of ten sequences: n / 10 times, give or take."""
    n, noise = 20_000, 3
    found = drawn(64, 4, 83, noise, n)
    for column in (slice(0, 8, 2), slice(1, 8, 2)):
        counts = found.tokens[:, column].flatten().bincount(minlength=83)
        expected = 4 * n / 40
        assert ((counts[counts > 0] - expected).abs() < 5 * expected**0.5).all()
        assert (counts > 0).sum() == 40
    blanks = found.tokens[:, 8:][found.tokens[:, 8:] < noise].bincount()
    assert blanks.min() / blanks.max() > 0.98


def test_gaps_follow_the_power_law() -> None:
    """One pair in 12 tokens: places 0 ... 4, taken as 1, 1/2, 1/3, 1/4, 1/5 to the power 0.99."""
    n = 50_000
    counts = ((drawn(12, 1, 3, 1, n).queries - 2) // 2).flatten().bincount(minlength=5)
    chance = torch.arange(1, 6).double() ** -0.99
    expected = n * chance / chance.sum()
    assert ((counts - expected).abs() < 4 * expected.sqrt()).all()


def test_places_are_even_at_power_1() -> None:
    n, generator = 50_000, torch.Generator().manual_seed(0)
    found = associative_recall(n, length=12, pairs=1, vocabulary=3, generator=generator, power=1.0)
    counts = ((found.queries - 2) // 2).flatten().bincount(minlength=5)
    assert ((counts - n / 5).abs() < 4 * (n / 5) ** 0.5).all()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((15, 4, 64, 1), "need a length of 16, got 15"),
        ((64, 0, 64, 1), "0 pairs"),
        ((64, 4, 8, 1), "vocabulary of at least 8 beside noise"),
        ((64, 4, 64, 0), "noise of at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(sizes: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn(*sizes)
