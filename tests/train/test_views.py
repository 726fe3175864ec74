"""Custom Diffusion's views: its statistics over many draws, and pixels and masks worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cdvideo.train import views
from cdvideo.train.views import View, place, random_view

DRAWS = 6000
SIZE = 120


@pytest.fixture(scope="module")
def draws():
    """(side, top, left, caption, mirrored) of many views, and nothing drawn: the photo's left pixel is black, its right one white."""
    photo = Image.new("RGB", (2, 2))
    photo.paste((255, 255, 255), (1, 0, 2, 2))
    seen = []

    def record(photo, size, side, top, left, caption, latent_factor=8, subject=None):
        seen.append((side, top, left, caption, photo.getpixel((0, 0)) == (255, 255, 255)))
        return View(pixels=torch.zeros(3, 1, 1), mask=torch.ones(1, 1), caption=caption)

    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "place", record)
        for _ in range(DRAWS):
            random_view(photo, SIZE, "photo of a V* bear", generator)
    return seen


def share(values) -> float:
    return sum(values) / len(values)


def test_two_thirds_of_the_views_are_shrunk_and_the_others_enlarged(draws):
    sides = np.array([side for side, *_ in draws])
    shrunk, enlarged = sides[sides <= SIZE], sides[sides > SIZE]
    assert abs(len(shrunk) / DRAWS - 0.66) < 0.025
    # From a third of the size to the size itself; from 1.2 to below 1.4 of it: each uniform, with both ends reached.
    assert (shrunk.min(), shrunk.max(), enlarged.min(), enlarged.max()) == (40, 120, 144, 167)
    assert abs(shrunk.mean() - 80) < 1.5 and abs(shrunk.std() - 81 / 12**0.5) < 0.7
    assert abs(enlarged.mean() - 155.5) < 0.7 and abs(enlarged.std() - 24 / 12**0.5) < 0.3


def test_captions_say_how_far_the_subject_is(draws):
    expected = {"far": ("a far away ", "very small "), "close": ("zoomed in ", "close up "), "plain": ("",)}
    for kind, prefixes in expected.items():
        here = [caption for side, _, _, caption, _ in draws if kind == ("far" if side < 72 else "close" if side > 120 else "plain")]
        counted = [share([caption == f"{prefix}photo of a V* bear" for caption in here]) for prefix in prefixes]
        assert sum(counted) == 1 and all(abs(value - 1 / len(prefixes)) < 0.06 for value in counted)
    # By hand: 32 of the 81 shrunk sides, 40 to 71, are below 0.6 of the size.
    assert abs(share(["far away" in caption or "very small" in caption for *_, caption, _ in draws]) - 0.66 * 32 / 81) < 0.025


def test_half_of_the_views_are_mirrored(draws):
    assert abs(share([mirrored for *_, mirrored in draws]) - 0.5) < 0.03


def test_every_place_is_as_likely(draws):
    for axis in (1, 2):
        for enlarged in (False, True):
            free = [(draw[axis], abs(SIZE - draw[0])) for draw in draws if draw[0] != SIZE and (draw[0] > SIZE) == enlarged]
            assert all(0 <= at <= room for at, room in free)
            assert any(at == 0 for at, _ in free) and any(at == room for at, room in free)
            relative = np.array([(at + 0.5) / (room + 1) for at, room in free])
            assert abs(relative.mean() - 0.5) < 0.03 and abs(relative.std() - 1 / 12**0.5) < 0.02


@pytest.fixture
def photo() -> Image.Image:
    return Image.new("RGB", (200, 200), (255, 0, 0))


def test_a_small_picture_is_pasted_on_zeros_with_a_mask_one_cell_inside(photo):
    view = place(photo, size=128, side=64, top=20, left=40, caption="x")
    assert view.pixels.shape == (3, 128, 128)
    assert torch.equal(view.pixels[:, 20:84, 40:104].unique(), torch.tensor([-1.0, 1.0]))
    assert view.pixels[:, :20].abs().sum() == 0 and view.pixels[:, :, 104:].abs().sum() == 0
    # by hand: rows 20 // 8 + 1 = 3 up to (20 + 64) // 8 - 1 = 9; columns 40 // 8 + 1 = 6 up to (40 + 64) // 8 - 1 = 12
    expected = torch.zeros(16, 16)
    expected[3:9, 6:12] = 1
    assert torch.equal(view.mask, expected)


def test_a_picture_of_just_the_size_is_a_pasted_one(photo):
    view = place(photo, size=64, side=64, top=0, left=0, caption="x")
    expected = torch.zeros(8, 8)
    expected[1:7, 1:7] = 1
    assert torch.equal(view.mask, expected) and view.pixels.abs().min() == 1


def test_a_large_picture_is_cut_and_wholly_seen():
    columns = np.tile(np.arange(160, dtype=np.uint8), (160, 1))
    picture = Image.fromarray(np.stack([columns, columns.T, columns], axis=-1))
    view = place(picture, size=128, side=160, top=32, left=5, caption="x")
    assert view.pixels.shape == (3, 128, 128) and view.mask.min() == 1
    values = ((view.pixels + 1) * 127.5).round()
    assert torch.equal(values[0, 0], torch.arange(5.0, 133)) and torch.equal(values[1, :, 0], torch.arange(32.0, 160))


def test_the_same_generator_gives_the_same_view(photo):
    first = random_view(photo, 128, "x", torch.Generator().manual_seed(3))
    second = random_view(photo, 128, "x", torch.Generator().manual_seed(3))
    assert torch.equal(first.pixels, second.pixels) and torch.equal(first.mask, second.mask) and first.caption == second.caption


def test_the_loss_counts_where_the_subject_is():
    subject = Image.new("L", (32, 32))
    subject.paste(255, (0, 0, 12, 32))
    view = place(Image.new("RGB", (32, 32)), size=32, side=32, top=0, left=0, caption="x", subject=subject)
    # Cells 1 and 2 are within the view's own mask; the subject covers columns 0 to 11: all of cell 1's before 8 to 11, half of it.
    expected = torch.zeros(4, 4)
    expected[1:3, 1] = 0.5
    assert torch.equal(view.mask, expected)


def test_masks_move_with_the_photo():
    """A photo that is its own mask: wherever the loss counts, its weight is the brightness there."""
    shape = Image.new("L", (96, 96))
    shape.paste(255, (60, 10, 90, 50))
    generator = torch.Generator().manual_seed(1)
    kinds = set()
    for _ in range(60):
        view = random_view(shape.convert("RGB"), 64, "x", generator, latent_factor=4, subject=shape)
        brightness = F.avg_pool2d((view.pixels[:1] + 1) / 2, 4)[0]
        counted = view.mask > 0
        assert torch.allclose(view.mask[counted], brightness[counted], atol=1e-5)
        assert view.mask.sum() >= 1, "a view without the subject is drawn again"
        kinds.add(view.caption)
    assert len(kinds) == 5, "a view of each kind was looked at"


def test_a_subject_that_no_view_shows_gives_the_whole_photo(photo):
    speck = Image.new("L", photo.size)
    speck.putpixel((0, 0), 255)
    view = random_view(photo, 64, "x", torch.Generator().manual_seed(0), subject=speck)
    assert view.mask.sum() == 36 and view.caption == "x"
