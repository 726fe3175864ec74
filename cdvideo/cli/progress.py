"""Progress bars on standard error, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


@contextmanager
def steps_bar(description: str, position: int = 0) -> Iterator[Callable[[int, int], None]]:
    """A bar for denoising steps, as what a render calls after each of them."""
    bar: tqdm[Any] = tqdm(desc=description, unit="step", leave=True, dynamic_ncols=True, position=position)

    def on_step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield on_step
    finally:
        bar.close()
