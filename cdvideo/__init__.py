"""cdvideo: photos of one subject become a concept, a concept and a prompt become a clip, clips become a film.

From Python: `cdvideo.Animator().add("concepts/bear.safetensors").animate("a V* bear reading a book", seed=3).save("bear.mp4")`. The names
below are imported when first used, so that `import cdvideo` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdvideo.animate.animator import Animator
    from cdvideo.concept import Concept
    from cdvideo.errors import UserError
    from cdvideo.video import Clip

__version__ = "0.1.0"
__all__ = ["Animator", "Clip", "Concept", "UserError", "__version__"]

_HOMES = {
    "Animator": "cdvideo.animate.animator",
    "Clip": "cdvideo.video",
    "Concept": "cdvideo.concept",
    "UserError": "cdvideo.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
