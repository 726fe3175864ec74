"""Intervals: what a rate or a mean of so many trials allows one to say. All are at 95 %."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]
_Z = 1.959964


def wilson(successes: int, count: int) -> Interval:
    """The interval of a rate (Wilson 1927): it stays within [0, 1] and is right at the edges, where the usual one has no width."""
    if count == 0:
        return 0.0, 1.0
    rate, squared = successes / count, _Z**2
    centre = (rate + squared / (2 * count)) / (1 + squared / count)
    reach = _Z / (1 + squared / count) * math.sqrt(rate * (1 - rate) / count + squared / (4 * count**2))
    return max(0.0, centre - reach), min(1.0, centre + reach)


def bootstrap(groups: Sequence[Sequence[float]], *, resamples: int = 1000, seed: int = 0) -> Interval:
    """The interval of the mean over all values, which fall into groups of one size (a subject's pictures, say) that are alike inside.

    Groups are drawn with replacement, then values within each (Davison and Hinkley 1997, section 3.8). One group is the plain bootstrap.
    """
    values = np.asarray(groups, float)
    if not values.size:
        return math.nan, math.nan
    num_groups, size = values.shape
    rng = np.random.default_rng(seed)
    drawn = rng.integers(num_groups, size=(resamples, num_groups, 1))
    means = values[drawn, rng.integers(size, size=(resamples, num_groups, size))].mean(axis=(1, 2))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
