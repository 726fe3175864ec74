import pytest
import torch
from PIL import Image

from cdvideo.errors import UserError
from cdvideo.train.photos import CLOSE_PREFIXES, FAR_PREFIXES, find_photos, load_photo, place, random_view


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


def test_a_large_picture_is_cut_and_wholly_seen(photo):
    view = place(photo, size=128, side=160, top=32, left=0, caption="x")
    assert view.pixels.shape == (3, 128, 128)
    assert view.mask.min() == 1


def test_captions_say_how_far_the_subject_is(photo):
    generator = torch.Generator().manual_seed(0)
    views = [random_view(photo, 120, "photo of a V* bear", generator) for _ in range(400)]
    shares = {"far": 0, "close": 0, "plain": 0}
    for view in views:
        covered = int((view.pixels.abs().sum(0) > 0).sum()) ** 0.5
        if view.caption.startswith(FAR_PREFIXES):
            shares["far"] += 1
            assert covered < 0.6 * 120
        elif view.caption.startswith(CLOSE_PREFIXES):
            shares["close"] += 1
            assert covered == 120
        else:
            shares["plain"] += 1
            assert 0.6 * 120 <= covered <= 120
        assert view.mask.sum() > 0
    # 0.66 of the views are shrunk, uniformly from a third of the side up; below 0.6 of it lie 0.4 of them.
    assert abs(shares["far"] / 400 - 0.66 * 0.4) < 0.06
    assert abs(shares["close"] / 400 - 0.34) < 0.07


def test_the_same_generator_gives_the_same_view(photo):
    first = random_view(photo, 128, "x", torch.Generator().manual_seed(3))
    second = random_view(photo, 128, "x", torch.Generator().manual_seed(3))
    assert torch.equal(first.pixels, second.pixels) and torch.equal(first.mask, second.mask) and first.caption == second.caption


def test_photos_come_upright_square_and_in_rgb(tmp_path):
    picture = Image.new("RGB", (300, 200), "blue")
    picture.paste((255, 0, 0), (0, 0, 300, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the top row belongs on the right
    picture.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = load_photo(tmp_path / "turned.jpg")
    assert upright.size == (200, 200) and upright.mode == "RGB"
    assert upright.getpixel((195, 100))[0] > 200 and upright.getpixel((5, 100))[2] > 200

    Image.new("L", (100, 100), 128).save(tmp_path / "grey.png")
    Image.new("CMYK", (100, 100)).save(tmp_path / "print.jpg")
    Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(tmp_path / "cutout.png")
    assert load_photo(tmp_path / "grey.png").getpixel((0, 0)) == (128, 128, 128)
    assert load_photo(tmp_path / "print.jpg").mode == "RGB"
    assert load_photo(tmp_path / "cutout.png").getpixel((0, 0)) == (255, 255, 255)


def _bad_inputs(folder):
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("not a picture")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.effect_noise((300, 300), 50).convert("RGB").save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "said"),
    [("text.jpg", "is not a picture"), ("dot.png", "too small: 1x1"), ("cut.jpg", "cannot be read"), ("none.jpg", "no such photo")],
)
def test_what_is_no_photo_is_refused_by_name(tmp_path, name, said):
    _bad_inputs(tmp_path)
    with pytest.raises(UserError, match=said) as refused:
        load_photo(tmp_path / name)
    assert name in refused.value.message and refused.value.remedy


def test_folders_without_photos_are_refused(tmp_path):
    _bad_inputs(tmp_path)
    with pytest.raises(UserError, match="no photo in"):
        find_photos(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        find_photos(tmp_path / "nowhere")
