"""What is done with finished concept files: other programs' formats in and out, smaller files, several concepts in one.

Its names are imported when first used, so that showing a header needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdvideo.interop.compressing import Compression, compress
    from cdvideo.interop.custom_diffusion import export_diffusers
    from cdvideo.interop.importing import Imported, import_diffusers
    from cdvideo.interop.kohya import export_kohya
    from cdvideo.interop.merging import Merge, merge
    from cdvideo.interop.moving import Movement, base_weights, movement
    from cdvideo.interop.outputs import Export

# Modules are not named as their functions are: importing one would put the module in the function's place.
_HOMES = {
    "Compression": "compressing",
    "Export": "outputs",
    "Imported": "importing",
    "Merge": "merging",
    "Movement": "moving",
    "base_weights": "moving",
    "compress": "compressing",
    "export_diffusers": "custom_diffusion",
    "export_kohya": "kohya",
    "import_diffusers": "importing",
    "merge": "merging",
    "movement": "moving",
}

__all__ = [
    "Compression",
    "Export",
    "Imported",
    "Merge",
    "Movement",
    "base_weights",
    "compress",
    "export_diffusers",
    "export_kohya",
    "import_diffusers",
    "merge",
    "movement",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
