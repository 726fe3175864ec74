"""Photos as people have them: every kind of file, made here, and the masks and captions beside them."""

import importlib.util
import os
import re
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from cdvideo.errors import UserError, UserNote
from cdvideo.train import reading
from cdvideo.train.photos import find_photos, load_one, load_photo, load_photos
from cdvideo.train.reading import read_picture

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def picture(width: int = 100, height: int = 100, colour=BLUE) -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def noise(side: int = 300) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def near(pixel, colour, within=6) -> bool:
    return all(abs(a - b) <= within for a, b in zip(pixel, colour, strict=True))


# Reading


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize(("orientation", "red_at"), [(1, (100, 10)), (3, (100, 190)), (6, (190, 100)), (8, (10, 100))])
def test_photos_come_upright_square_and_in_rgb(tmp_path, suffix, orientation, red_at):
    """The camera's top rows are red; an orientation of 6 puts them on the right, 8 on the left, 3 at the bottom."""
    turned = picture(300, 200)
    turned.paste(RED, (0, 0, 300, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    turned.save(path, exif=exif, quality=95)
    upright = load_photo(path)
    assert upright.size == (200, 200) and upright.mode == "RGB"
    assert near(upright.getpixel(red_at), RED, 30) and near(upright.getpixel((100, 100)), BLUE, 30)
    assert read_picture(path).size == ((200, 300) if orientation in (6, 8) else (300, 200))


def sixteen_bits(path):
    Image.fromarray(np.full((100, 100), 0x8040, np.uint16)).save(path)


def palette(path):
    picture().quantize(4).save(path)


def palette_transparent(path):
    made = Image.new("P", (100, 100), 1)
    made.putpalette([255, 0, 0, 0, 0, 255])
    made.paste(0, (0, 0, 50, 100))
    made.save(path, transparency=0)


CASES = {
    "grey.png": (lambda path: Image.new("L", (100, 100), 128).save(path), (128, 128, 128)),
    "greyalpha.png": (lambda path: Image.new("LA", (100, 100), (0, 0)).save(path), WHITE),
    "bits.png": (lambda path: Image.new("1", (100, 100), 1).save(path), WHITE),
    "sixteen.png": (sixteen_bits, (128, 128, 128)),
    "sixteen.tif": (sixteen_bits, (128, 128, 128)),
    "float.tif": (lambda path: Image.fromarray(np.full((100, 100), 0.5, np.float32)).save(path), (128, 128, 128)),
    "palette.png": (palette, BLUE),
    "palette.gif": (palette, BLUE),
    "hole.png": (palette_transparent, WHITE),
    "cutout.png": (lambda path: Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(path), WHITE),
    "half.png": (lambda path: Image.new("RGBA", (100, 100), (0, 0, 0, 128)).save(path), (127, 127, 127)),
    "cutout.webp": (lambda path: Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(path, lossless=True), WHITE),
    "print.jpg": (lambda path: Image.new("CMYK", (100, 100), (255, 255, 0, 0)).save(path, quality=95), BLUE),
    "print.tif": (lambda path: Image.new("CMYK", (100, 100), (255, 255, 0, 0)).save(path), BLUE),
    "really-a-png.jpg": (lambda path: picture().save(path, format="PNG"), BLUE),
    "日本 größe.png": (lambda path: picture().save(path), BLUE),
}


@pytest.mark.parametrize("name", CASES)
def test_every_mode_is_read_in_rgb(tmp_path, name):
    save, colour = CASES[name]
    save(tmp_path / name)
    loaded = load_photo(tmp_path / name)
    assert loaded.mode == "RGB" and near(loaded.getpixel((10, 50)), colour)


def test_colours_are_converted_by_the_profile_in_the_file(tmp_path):
    """A profile made by hand: sRGB's with red and blue exchanged, and renamed."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    assert exchanged != profile
    exchanged = exchanged.replace("sRGB".encode("utf-16-be"), "xBGR".encode("utf-16-be"))
    picture(colour=RED).save(tmp_path / "odd.png", icc_profile=exchanged)
    picture(colour=RED).save(tmp_path / "usual.png", icc_profile=profile)
    picture(colour=RED).save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert near(load_photo(tmp_path / "odd.png").getpixel((0, 0)), BLUE, 40)
    assert load_photo(tmp_path / "usual.png").getpixel((0, 0)) == RED
    with pytest.warns(UserNote, match=r"broken\.png: its colour profile cannot be used"):
        assert load_photo(tmp_path / "broken.png").getpixel((0, 0)) == RED


def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(tmp_path):
    for name in ("film.gif", "film.webp", "film.png", "pages.tif"):
        path = tmp_path / name
        picture(colour=RED).save(path, save_all=True, append_images=[picture(colour=BLUE)])
        with pytest.warns(UserNote, match=rf"{name}: it holds 2 (frames|pages); the first is used"):
            assert near(load_photo(path).getpixel((5, 5)), RED)


def test_a_picture_that_is_not_square_is_cut_to_its_centre(tmp_path):
    wide = picture(300, 100)
    wide.paste(RED, (100, 0, 200, 100))
    wide.save(tmp_path / "wide.png")
    assert load_photo(tmp_path / "wide.png").getcolors() == [(100 * 100, RED)]


def test_a_huge_jpeg_is_read_reduced(tmp_path):
    """182 megapixels, which Pillow alone refuses; decoded whole they would be 0.5 GB."""
    path = tmp_path / "huge.jpg"
    Image.new("L", (14000, 13000), 90).save(path, quality=10)
    read = read_picture(path)
    assert read.size == (14000, 13000) and min(read.picture.size) == reading.LARGEST_SIDE
    assert read.picture.width == round(14000 / 13000 * 1024) and near(read.picture.getpixel((500, 500)), (90, 90, 90))


def test_a_huge_picture_of_another_format_is_refused(tmp_path, monkeypatch):
    picture(400, 300).save(tmp_path / "huge.png")
    picture(400, 300).save(tmp_path / "huge.jpg", progressive=True)
    monkeypatch.setattr(reading, "MAX_WHOLE_PIXELS", 100_000)
    for name in ("huge.png", "huge.jpg"):
        with pytest.raises(UserError, match="too huge") as refused:
            load_photo(tmp_path / name)
        assert "400x300" in refused.value.cause and "scale it down" in refused.value.remedy


def test_heic_needs_a_decoder_and_says_which(tmp_path, monkeypatch):
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"phone\.HEIC is a HEIC picture") as refused:
        load_photo(tmp_path / "phone.HEIC")
    assert "pip install pillow-heif" in refused.value.remedy


@pytest.mark.skipif(not importlib.util.find_spec("pillow_heif"), reason="pillow-heif is not installed")
def test_heic_is_read_where_its_decoder_is(tmp_path):
    import pillow_heif

    pillow_heif.from_pillow(picture(128, 128)).save(tmp_path / "phone.heic", quality=95)
    assert near(load_photo(tmp_path / "phone.heic").getpixel((60, 60)), BLUE, 20)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    picture().save(tmp_path / "a.avif")
    assert near(load_photo(tmp_path / "a.avif").getpixel((60, 60)), BLUE, 20)
    noise().save(tmp_path / "a.avif")
    content = (tmp_path / "a.avif").read_bytes()
    for kept in (0.1, 0.5, 0.9):
        (tmp_path / "cut.avif").write_bytes(content[: int(kept * len(content))])
        with pytest.raises(UserError, match=r"cut\.avif"):
            load_photo(tmp_path / "cut.avif")


def bad_inputs(folder):
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("not a picture")
    (folder / "nothing.png").touch()
    (folder / "page.png").write_text("<!DOCTYPE html><html>")
    (folder / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    (folder / "gone.png").symlink_to(folder / "elsewhere.png")
    picture(1, 1).save(folder / "dot.png")
    for name in ("cut.jpg", "cut.png", "cut.webp", "cut.gif", "cut.tif", "cut.bmp"):
        noise().save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text.jpg", "is not a picture"),
        ("nothing.png", "is empty"),
        ("page.png", "it is a web page"),
        ("lfs.png", "git lfs pull"),
        ("gone.png", "which is not there"),
        ("dot.png", "too small: 1x1"),
        ("none.jpg", "no such photo"),
        *((f"cut.{kind}", "cannot be read|is not a picture") for kind in ("jpg", "png", "webp", "gif", "tif", "bmp")),
    ],
)
def test_what_is_no_photo_is_refused_by_name(tmp_path, name, said):
    bad_inputs(tmp_path)
    with pytest.raises(UserError) as refused:
        load_photo(tmp_path / name)
    assert name in refused.value.message and refused.value.remedy
    assert re.search(said, str(refused.value))


# Folders


def test_what_is_no_photo_in_a_folder_is_said_once(tmp_path):
    picture().save(tmp_path / "b.png")
    picture().save(tmp_path / "a.JPG")
    picture().save(tmp_path / "phone-picture", format="PNG")
    picture().save(tmp_path / ".hidden.png")
    (tmp_path / "._b.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "linked.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    picture().save(tmp_path / "z.mask.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = find_photos(tmp_path)
    assert [path.name for path in found] == ["a.JPG", "b.png", "linked.png", "phone-picture"]
    assert [str(note.message) for note in caught] == [
        "no photos, and not used: notes.md, 2 hidden files",
        "links to what is not there, and not used: broken.png",
        "masks of no photo here, and not used: z.mask.png",
    ]


def test_folders_without_photos_are_refused(tmp_path):
    bad_inputs(tmp_path)
    with pytest.raises(UserError, match="no photo in"):
        find_photos(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder"):
        find_photos(tmp_path / "nowhere")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    picture().save(tmp_path / "outer" / "inner" / "a.png")
    with pytest.raises(UserError, match="no photo in") as refused:
        find_photos(tmp_path / "outer")
    assert "inner/ holds 1" in refused.value.cause and str(tmp_path / "outer" / "inner") in refused.value.remedy


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_text_are_read(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    picture().save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", path)
    assert len(load_photos(tmp_path)) == 1


# Masks


def test_masks_beside_photos_and_in_their_folder(tmp_path):
    for name in ("a", "b", "c"):
        picture(200, 100).save(tmp_path / f"{name}.jpg")
    mask = Image.new("L", (400, 200))
    mask.paste(255, (0, 0, 200, 200))
    mask.save(tmp_path / "a.mask.png")
    (tmp_path / "masks").mkdir()
    mask.convert("1").save(tmp_path / "masks" / "b.png")
    photos = load_photos(tmp_path)
    assert [photo.path.name for photo in photos] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [photo.mask_source and photo.mask_source.name for photo in photos] == ["a.mask.png", "b.png", None]
    for photo in photos[:2]:
        # The left half of the photo is the subject; of the central square, its left half.
        assert photo.mask.size == photo.picture.size == (100, 100)
        assert photo.mask.getpixel((40, 50)) == 255 and photo.mask.getpixel((60, 50)) == 0
    assert photos[2].mask is None


def test_transparency_is_a_mask_unless_one_lies_beside(tmp_path):
    cutout = Image.new("RGBA", (100, 100), (0, 0, 255, 0))
    cutout.paste((0, 0, 255, 255), (0, 0, 50, 100))
    cutout.save(tmp_path / "a.png")
    with pytest.warns(UserNote, match=r"a\.png: its transparent parts are shown white and left out of the loss"):
        (photo,) = load_photos(tmp_path)
    assert photo.mask_source == photo.path and photo.mask.getpixel((10, 10)) == 255 and photo.mask.getpixel((90, 10)) == 0
    assert photo.picture.getpixel((10, 10)) == BLUE and photo.picture.getpixel((90, 10)) == WHITE
    Image.new("L", (100, 100), 255).save(tmp_path / "a.mask.png")
    assert load_one(tmp_path / "a.png").mask.getextrema() == (255, 255)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (Image.new("L", (100, 200), 255), "a.mask.png does not fit a.jpg"),
        (Image.new("L", (200, 100), 0), "a.mask.png is wholly black where a.jpg is used"),
        (Image.new("RGBA", (200, 100), (255, 255, 255, 0)), "a.mask.png is wholly black"),
    ],
)
def test_masks_that_cannot_be_meant_are_refused(tmp_path, mask, said):
    picture(200, 100).save(tmp_path / "a.jpg")
    mask.save(tmp_path / "a.mask.png")
    with pytest.raises(UserError, match=said) as refused:
        load_photos(tmp_path)
    assert refused.value.remedy


def test_two_masks_and_wholly_transparent_photos_are_refused(tmp_path):
    Image.new("RGBA", (100, 100)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="wholly transparent"):
        load_photos(tmp_path)
    (tmp_path / "masks").mkdir()
    for name in ("a.mask.png", "masks/a.png"):
        Image.new("L", (100, 100), 255).save(tmp_path / name)
    with pytest.raises(UserError, match="more than one mask"):
        load_photos(tmp_path)


# Captions


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("photo of a V* bear on a chair\n", "photo of a V* bear on a chair"),
        ("\ufeffa bear, asleep\r\n\r\n", "a V* bear, asleep"),
        ("A Bear beside another bear", "A V* Bear beside another bear"),
        ("V* asleep", "V* asleep"),
    ],
)
def test_captions_name_the_subject(tmp_path, text, caption):
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(text.encode())
    (photo,) = load_photos(tmp_path, class_word="bear")
    assert photo.caption == caption


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a.txt, line 1: the caption is empty"),
        (b"\n\na bear\nin the snow\n", "a.txt, line 4: a caption is one line"),
        (b"\na bearskin on TV*s", r"a.txt, line 2: the caption names neither V\* nor bear"),
        (b"a bear\n\xff\xfe", "a.txt, line 2: the caption is not UTF-8 text"),
    ],
)
def test_captions_that_cannot_be_used_name_file_and_line(tmp_path, content, said):
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=said) as refused:
        load_photos(tmp_path, class_word="bear")
    assert refused.value.remedy
