"""Where the top-level folders (`motion_modules`, `configs`, `samples`) lie, in a source checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from cdvideo.errors import UserError

_PACKAGE = Path(__file__).resolve().parent


def resource(*parts: str) -> Path:
    """The path of a file or folder below the top level, such as `resource("samples", "bear")`.

    Raises UserError where it does not exist in this installation.
    """
    is_checkout = (_PACKAGE.parent / "pyproject.toml").is_file()
    roots = [*([_PACKAGE.parent] if is_checkout else []), _PACKAGE / "_data"]
    for root in roots:
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise UserError(
        f"this installation lacks {'/'.join(parts)}",
        cause=f"looked in {' and '.join(map(str, roots))}",
        remedy="install cdvideo again, or run it from a complete checkout of the repository",
    )
