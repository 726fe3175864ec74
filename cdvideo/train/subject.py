"""What is learnt, and from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from cdvideo.train.photos import Photo


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is learnt: the token that will stand for it, its class word, and the word whose embedding the token starts from."""

    token: str
    class_word: str
    initializer: str

    @property
    def class_prompt(self) -> str:
        return f"a photo of a {self.class_word}"

    @property
    def prompt(self) -> str:
        """The class prompt with the token in it: what the semantic preservation loss compares with it."""
        return f"a photo of a {self.token} {self.class_word}"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A square RGB picture to learn from, its name and its caption. Its loss counts where `mask` (mode L) is white, or everywhere."""

    name: str
    picture: Image.Image
    caption: str
    mask: Image.Image | None = None


def subject_examples(subjects: Sequence[Subject], photos: Mapping[str, Sequence[Photo | Image.Image]]) -> list[Example]:
    """The examples of every subject's photos, which are given by token. A photo without a caption of its own is "photo of a V* bear"."""
    found = []
    for subject in subjects:
        for number, photo in enumerate(photos[subject.token], 1):
            usual = f"photo of a {subject.token} {subject.class_word}"
            if isinstance(photo, Photo):
                found.append(Example(name=photo.path.name, picture=photo.picture, caption=photo.caption or usual, mask=photo.mask))
            else:
                found.append(Example(name=f"photo {number}", picture=photo, caption=usual))
    return found


def class_examples(subjects: Sequence[Subject], pictures: Mapping[str, Sequence[Image.Image]]) -> list[Example]:
    """The examples of prior preservation, from pictures by class word."""
    words = dict.fromkeys(subject.class_word for subject in subjects)
    return [
        Example(name=f"class picture {number}", picture=picture, caption=f"photo of a {word}")
        for word in words
        for number, picture in enumerate(pictures[word], 1)
    ]
