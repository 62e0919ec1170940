"""Colours are readable on their page and distinct for people with deficient colour vision."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from pcl.report.style import Look, plain, strokes

# Simulation of full dichromacy on linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
VISION = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Linear RGB to Oklab, a space in which Euclidean distance is about perceived difference.
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """Contrast ratio of WCAG 2."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(colour: str, vision: str) -> np.ndarray:
    seen = np.clip(np.array(VISION[vision]) @ linear(colour), 0, 1)
    return np.array(TO_LAB) @ np.cbrt(np.array(TO_CONES) @ seen)


@pytest.mark.parametrize("look", [Look(), Look(dark=True)], ids=["light", "dark"])
def test_contrast_with_the_page(look: Look) -> None:
    # WCAG 2: 4.5 for text, 3 for graphics.
    assert contrast(look.ink, look.paper) >= 7
    assert contrast(look.muted, look.paper) >= 4.5
    for stroke in strokes([str(i) for i in range(6)], look).values():
        assert contrast(stroke.colour, look.paper) >= 3


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("look", [Look(), Look(dark=True)], ids=["light", "dark"])
def test_six_tasks_are_distinct(look: Look, vision: str) -> None:
    colours = [stroke.colour for stroke in strokes([str(i) for i in range(6)], look).values()]  # and MEMORY
    nearest = min(np.linalg.norm(lab(a, vision) - lab(b, vision)) for a, b in combinations(colours, 2))
    assert nearest > 0.08  # four times the just noticeable difference of about 0.02


def test_twenty_four_tasks_have_different_strokes() -> None:
    made = strokes([str(i) for i in range(24)], Look())
    assert len({(s.colour, str(s.dash)) for s in made.values()}) == 25  # and MEMORY
    assert made["0"].colour == made["6"].colour


def test_memory_does_not_take_the_colour_of_a_task() -> None:
    with_memory, without = strokes(["a", "MEMORY", "b"], Look()), strokes(["a", "b"], Look())
    assert with_memory == without


def test_plain_text_is_one_short_line_without_mathematics() -> None:
    assert plain("a\n  b") == "a b"
    assert plain("$x$") == r"\$x\$"
    assert plain("abcdef", 4) == "abc…"
    assert plain("_hidden") == " _hidden"
