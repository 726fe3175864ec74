"""Concept files that hold a header and next to nothing else, for everything that comes before rendering."""

import json
import struct
import wave
from pathlib import Path

from cdvideo.concept import ConceptHeader

KEYS = "down_blocks.0.attn2.to_k.weight"


def header(*class_words: str, tokens: tuple[str, ...] | None = None, fingerprint: str = "f" * 16, base: str = "pocket") -> ConceptHeader:
    """That of a training of these classes: V* for one, V1*, V2* for several."""
    usual = ("V*",) if len(class_words) == 1 else tuple(f"V{number}*" for number in range(1, len(class_words) + 1))
    return ConceptHeader(base=base, fingerprint=fingerprint, tokens=tokens or usual, class_words=class_words)


def write_concept(path: Path, made: ConceptHeader, *, weights: tuple[str, ...] = (KEYS,)) -> Path:
    """A file with this header and a number for each weight."""
    entries: dict[str, object] = {"__metadata__": {"cdvideo_concept": made.to_json()}}
    for number, name in enumerate(weights):
        entries[f"unet.{name}"] = {"dtype": "F32", "shape": [1], "data_offsets": [4 * number, 4 * number + 4]}
    raw = json.dumps(entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4 * len(weights)))
    return path


def write_silence(path: Path) -> None:
    """A tenth of a second, as a WAV file whatever its name; the content decides what a sound is."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
