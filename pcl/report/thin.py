"""Thins long series for drawing: a screen has some hundred columns, a run may have many thousand steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pcl.report.run import FloatArray


@dataclass(frozen=True)
class Thinned:
    """`size` consecutive rows became one of b: mean, low and high [b, ...], NaN where all were NaN.

    `edges` [b + 1]: bucket i reaches from step edges[i] up to, without, edges[i + 1].
    """

    edges: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    size: int

    @property
    def centres(self) -> FloatArray:
        """The step in the middle of each bucket; the step itself where nothing was thinned."""
        return (self.edges[:-1] + self.edges[1:] - 1) / 2


def thin(steps: ArrayLike, values: ArrayLike, most: int) -> Thinned:
    """Average n rows of `values` [n, ...], recorded at increasing `steps` [n], to at most `most` rows."""
    s = np.asarray(steps, dtype=np.float64)
    v = np.asarray(values, dtype=np.float64)
    if s.ndim != 1 or len(s) != len(v):
        raise ValueError(f"steps {s.shape} and values {v.shape}: expected one step per row of values")
    size = max(1, -(-len(s) // most))
    count = -(-len(s) // size)
    edges = np.append(s[::size], s[-1] + 1) if len(s) else np.zeros(1)
    if size == 1:
        return Thinned(edges, v, v, v, 1)
    padded = np.full((count * size, *v.shape[1:]), np.nan)
    padded[: len(v)] = v
    buckets = padded.reshape(count, size, *v.shape[1:])
    known = np.isfinite(buckets)
    total, sum_ = known.sum(axis=1), np.where(known, buckets, 0.0).sum(axis=1)
    mean = np.where(total > 0, sum_ / np.maximum(total, 1), np.nan)
    low = np.where(total > 0, np.where(known, buckets, np.inf).min(axis=1), np.nan)
    high = np.where(total > 0, np.where(known, buckets, -np.inf).max(axis=1), np.nan)
    return Thinned(edges, mean, low, high, size)
