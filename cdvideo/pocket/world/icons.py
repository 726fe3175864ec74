"""The icon families the picture world is drawn with: where they come from, their licences, and their sprites.

Families are fetched with `npm pack`, pinned by version and by npm's own SHA-512, and only when the pocket base is trained
(`make pocket`). Nothing at run time needs them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from cdvideo.errors import UserError

SPRITE_PX = 320


@dataclass(frozen=True, kw_only=True)
class IconFamily:
    """One npm package of SVG icons; `integrity` is npm's `sha512-<base64>`."""

    name: str
    version: str
    integrity: str
    licence: str
    author: str
    url: str


FAMILIES = {
    family.name: family
    for family in (
        IconFamily(
            name="noto",
            version="1.2.9",
            integrity="sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
            licence="Apache-2.0",
            author="Google Inc",
            url="https://github.com/googlefonts/noto-emoji",
        ),
        IconFamily(
            name="noto-v1",
            version="1.2.5",
            integrity="sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
            licence="Apache-2.0",
            author="Google Inc",
            url="https://github.com/googlefonts/noto-emoji",
        ),
        IconFamily(
            name="fxemoji",
            version="1.2.2",
            integrity="sha512-UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
            licence="Apache-2.0",
            author="Mozilla",
            url="https://github.com/mozilla/fxemoji",
        ),
        IconFamily(
            name="twemoji",
            version="1.2.5",
            integrity="sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
            licence="CC-BY-4.0",
            author="Twitter",
            url="https://github.com/twitter/twemoji",
        ),
        IconFamily(
            name="emojione",
            version="1.2.3",
            integrity="sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
            licence="CC-BY-4.0",
            author="Emoji One",
            url="https://github.com/EmojiTwo/emojitwo",
        ),
        IconFamily(
            name="streamline-emojis",
            version="1.2.4",
            integrity="sha512-iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
            licence="CC-BY-4.0",
            author="Streamline",
            url="https://github.com/webalys-hq/streamline-vectors",
        ),
        IconFamily(
            name="fluent-emoji",
            version="1.2.7",
            integrity="sha512-D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
            licence="MIT",
            author="Microsoft Corporation",
            url="https://github.com/microsoft/fluentui-emoji",
        ),
        IconFamily(
            name="fluent-emoji-flat",
            version="1.2.6",
            integrity="sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
            licence="MIT",
            author="Microsoft Corporation",
            url="https://github.com/microsoft/fluentui-emoji",
        ),
    )
}


class Icons:
    """Renders sprites from the families under `folder`, fetching a missing family once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sheets: dict[str, dict[str, Any]] = {}
        self._sprites: dict[tuple[str, str], Image.Image] = {}

    def sprite(self, family: str, icon: str) -> Image.Image:
        """The icon, RGBA, trimmed to its opaque part, its longer side `SPRITE_PX` pixels before trimming."""
        key = (family, icon)
        if key not in self._sprites:
            self._sprites[key] = trim(rasterise(self._svg(family, icon)))
        return self._sprites[key]

    def _svg(self, family: str, icon: str) -> str:
        sheet = self._sheet(family)
        entry = sheet["icons"][sheet.get("aliases", {}).get(icon, {}).get("parent", icon)]
        left, top = entry.get("left", sheet.get("left", 0)), entry.get("top", sheet.get("top", 0))
        width, height = entry.get("width", sheet.get("width", 16)), entry.get("height", sheet.get("height", 16))
        return svg(entry["body"], f"{left} {top} {width} {height}")

    def _sheet(self, family: str) -> dict[str, Any]:
        if family not in self._sheets:
            path = self.folder / f"{family}-{FAMILIES[family].version}.json"
            if not path.exists():
                fetch(FAMILIES[family], path)
            self._sheets[family] = json.loads(path.read_text())
        return self._sheets[family]


def fetch(family: IconFamily, path: Path) -> None:
    """Writes the family's icons to `path` as JSON, after checking the package against its pinned hash. Processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as own:
        archive = _packed(f"@iconify-json/{family.name}@{family.version}", Path(own))
        digest = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != family.integrity:
            raise UserError(
                f"the icon family {family.name} {family.version} is not the one this recipe was written for",
                cause=f"expected {family.integrity}, got {digest}",
                remedy="do not train on it; compare the package with its publisher's",
            )
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/icons.json")
            assert member is not None
            icons = Path(own) / "icons.json"
            icons.write_bytes(member.read())
        icons.replace(path)


def _packed(package: str, folder: Path) -> Path:
    """The npm package's archive, in `folder`."""
    try:
        done = subprocess.run(["npm", "pack", "--silent", "--json", package], cwd=folder, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"cannot fetch the icon family {package}",
            cause=str(getattr(error, "stderr", "") or error).strip(),
            remedy="training the pocket base needs npm and a network; using it needs neither",
        ) from error
    listing = json.loads(done.stdout)
    entry = listing[0] if isinstance(listing, list) else next(iter(listing.values()))
    return folder / str(entry["filename"])


def svg(body: str, view_box: str) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view_box}" width="{SPRITE_PX}" height="{SPRITE_PX}">{body}</svg>'
    )


def rasterise(source: str) -> Image.Image:
    import resvg_py

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=source)))).convert("RGBA")


def trim(picture: Image.Image) -> Image.Image:
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha > 24 else 0).getbbox()
    return picture.crop(box) if box else picture


@cache
def drawn_sprite(name: str, colour: str) -> Image.Image:
    """A worn thing that the families draw tilted or with extras, so that it is drawn here: facing the viewer."""
    bodies = {
        "headphones": (
            f'<path d="M14 64 A50 52 0 0 1 114 64" fill="none" stroke="{colour}" stroke-width="9"/>'
            f'<rect x="2" y="58" width="22" height="42" rx="10" fill="{colour}"/>'
            f'<rect x="104" y="58" width="22" height="42" rx="10" fill="{colour}"/>'
            '<rect x="18" y="60" width="9" height="38" rx="4" fill="#333"/>'
            '<rect x="101" y="60" width="9" height="38" rx="4" fill="#333"/>'
        ),
        "sunglasses": (
            f'<path d="M4 46 h120 v8 h-120 z" fill="{colour}"/>'
            f'<path d="M8 46 h50 v20 a25 22 0 0 1 -50 0 z" fill="{colour}"/>'
            f'<path d="M70 46 h50 v20 a25 22 0 0 1 -50 0 z" fill="{colour}"/>'
            '<path d="M16 52 l14 0 l-12 18 z" fill="#ffffff" opacity=".35"/>'
            '<path d="M78 52 l14 0 l-12 18 z" fill="#ffffff" opacity=".35"/>'
        ),
        "scarf": (
            f'<path d="M76 30 l22 0 l8 62 l-30 0 z" fill="{colour}"/>'
            f'<path d="M8 12 Q64 44 120 12 L122 34 Q64 72 6 34 z" fill="{colour}"/>'
            '<path d="M78 66 l24 0 l1 9 l-25 0 z" fill="#ffffff" opacity=".55"/>'
            '<path d="M30 23 l10 6 l-2 22 l-12 -6 z" fill="#ffffff" opacity=".55"/>'
            '<path d="M92 26 l9 -5 l4 21 l-10 6 z" fill="#ffffff" opacity=".55"/>'
        ),
    }
    return trim(rasterise(svg(bodies[name], "0 0 128 128")))
