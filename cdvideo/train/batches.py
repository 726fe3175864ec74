"""What a step trains on, drawn ahead of it.

Every sample has a generator of its own, from the seed, the step and its number in the step. So it does not matter who draws it or when: a
resumed training, one on several processes and one that accumulates gradients draw the same samples.

Shapes: `B` samples, `C` latent channels, `h w` latent height and width, `L` text positions.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cdvideo.base import Base, token_ids
from cdvideo.base.text import copy_of
from cdvideo.train.subject import Example
from cdvideo.train.views import View, place, random_view

ENCODED_AT_ONCE, ENCODED_PIXELS = 8, 2 * 512**2

Made = TypeVar("Made")
Encode = Callable[[Tensor], Tensor]
"""Means and deviations of posteriors, (2, B, C, h, w), of pixels (B, 3, H, W)."""


def posteriors(base: Base, pixels: Tensor) -> Tensor:
    """Means and deviations (2, B, C, h, w) of the base's posteriors, as `Encode` says."""
    return torch.stack(base.moments(pixels))


def sample_generator(*key: int | str) -> torch.Generator:
    """A generator that depends on the key and on nothing else."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A drawn view: its photo's name, its caption and its mask (h, w).

    Either its pixels (3, H, W) are there or, where it is cached, its posterior's moments (C, h, w).
    """

    name: str
    caption: str
    mask: Tensor
    pixels: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None


class Source(Protocol):
    def draw(self, generator: torch.Generator) -> Picture: ...


class FreshViews:
    """A new view of some example at every draw; without `augmented`, the whole example as it is."""

    def __init__(self, base: Base, examples: Sequence[Example], *, augmented: bool = True) -> None:
        self.size, self.factor = base.preset.native_size, base.latent_factor
        self.examples, self.augmented = examples, augmented

    def view(self, example: Example, generator: torch.Generator) -> View:
        if not self.augmented:
            return place(example.picture, self.size, self.size, 0, 0, example.caption, self.factor)
        return random_view(example.picture, self.size, example.caption, generator, self.factor, example.mask)

    def draw(self, generator: torch.Generator) -> Picture:
        example = self.examples[int(torch.randint(len(self.examples), (1,), generator=generator))]
        view = self.view(example, generator)
        mask = view.mask if self.augmented else torch.ones_like(view.mask)
        return Picture(name=example.name, caption=view.caption, mask=mask, pixels=view.pixels)


class CachedViews:
    """`count` views of each example, encoded once. Latents are still sampled from their posteriors at every step."""

    def __init__(self, base: Base, views: FreshViews, count: int, seed: int) -> None:
        wanted = [(number, example, index) for number, example in enumerate(views.examples) for index in range(count)]
        self.pictures: list[Picture] = []
        at_once = max(1, min(ENCODED_AT_ONCE, ENCODED_PIXELS // views.size**2))
        for start in range(0, len(wanted), at_once):
            some = wanted[start : start + at_once]
            drawn = [views.view(example, sample_generator(seed, "cached view", number, index)) for number, example, index in some]
            mean, std = base.moments(torch.stack([view.pixels for view in drawn]))
            for (_, example, _), view, own_mean, own_std in zip(some, drawn, mean.float().cpu(), std.float().cpu(), strict=True):
                mask = view.mask if views.augmented else torch.ones_like(view.mask)
                self.pictures.append(Picture(name=example.name, caption=view.caption, mask=mask, mean=own_mean, std=own_std))

    def draw(self, generator: torch.Generator) -> Picture:
        return self.pictures[int(torch.randint(len(self.pictures), (1,), generator=generator))]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Names, captions and their ids (B, L); pixels (B, 3, H, W) or moments (B, C, h, w) each; masks (B, h, w); and all noise that is drawn.

    `posterior_noise` samples the latents, `noise` (B, C, h, w) is what is to be predicted at `timesteps` (B,). Samples of prior
    preservation are the last ones.
    """

    names: list[str]
    captions: list[str]
    ids: Tensor
    mask: Tensor
    pixels: Tensor | None
    mean: Tensor | None
    std: Tensor | None
    posterior_noise: Tensor
    noise: Tensor
    timesteps: Tensor

    def latents(self, device: torch.device, encode: Encode) -> Tensor:
        """Clean latents (B, C, h, w) in fp32 on the device, sampled from the posteriors."""
        if self.pixels is not None:
            mean, std = encode(self.pixels.to(device, non_blocking=True))
        else:
            assert self.mean is not None and self.std is not None
            mean, std = self.mean.to(device, non_blocking=True), self.std.to(device, non_blocking=True)
        return mean.float() + std.float() * self.posterior_noise.to(device, non_blocking=True)

    def pinned(self) -> Batch:
        """The same in memory that a GPU reads without being waited for."""
        tensors: dict[str, Any] = {name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, **tensors)


class Batches:
    """Draws the batches of a training: of `source` and, as many again, of `prior` where it is given."""

    def __init__(self, base: Base, source: Source, prior: Source | None, *, seed: int, num_train_timesteps: int) -> None:
        self.source, self.prior = source, prior
        self.tokenizer = copy_of(base.tokenizer)
        self.seed, self.num_train_timesteps = seed, num_train_timesteps
        side = base.preset.native_size // base.latent_factor
        self.shape = (base.unet.config.in_channels, side, side)

    def num_prior(self, batch_size: int) -> int:
        """How many samples of prior preservation a batch of `batch_size` others has."""
        return batch_size if self.prior is not None else 0

    def draw(self, step: int, numbers: Iterable[int]) -> Batch:
        """The samples of these numbers in the step."""
        numbers = list(numbers)
        generators = [sample_generator(self.seed, step, number) for number in numbers]
        pictures = [self.source.draw(generator) for generator in generators]
        if self.prior is not None:
            own = [sample_generator(self.seed, "prior", step, number) for number in numbers]
            generators += own
            pictures += [self.prior.draw(generator) for generator in own]
        captions = [picture.caption for picture in pictures]
        return Batch(
            names=[picture.name for picture in pictures],
            captions=captions,
            ids=token_ids(self.tokenizer, captions),
            mask=torch.stack([picture.mask for picture in pictures]),
            pixels=_stacked([picture.pixels for picture in pictures]),
            mean=_stacked([picture.mean for picture in pictures]),
            std=_stacked([picture.std for picture in pictures]),
            posterior_noise=torch.stack([torch.randn(self.shape, generator=generator) for generator in generators]),
            noise=torch.stack([torch.randn(self.shape, generator=generator) for generator in generators]),
            timesteps=torch.cat([torch.randint(self.num_train_timesteps, (1,), generator=generator) for generator in generators]),
        )


def _stacked(values: Sequence[Tensor | None]) -> Tensor | None:
    return torch.stack([value for value in values if value is not None]) if values[0] is not None else None


def made_ahead(make: Callable[[int], Made], numbers: Iterable[int], depth: int = 2) -> Generator[Made, None, None]:
    """`make(number)` of each number in order, the next `depth` of them in the making meanwhile, in another thread.

    There torch has one thread of its own: more than cores would wait for one another. The caller's number is asked for first, since what
    the other sets would become that of a thread that has none yet.
    """
    torch.get_num_threads()
    with ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming: list[Future[Made]] = []
        try:
            for number in numbers:
                coming.append(pool.submit(make, number))
                if len(coming) > depth:
                    yield coming.pop(0).result()
            while coming:
                yield coming.pop(0).result()
        finally:
            for future in coming:
                future.cancel()
