"""A commented storyboard to begin with. Imports no torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from cdvideo.concept import CONCEPTS, read_header
from cdvideo.errors import UserError
from cdvideo.files import explained

MAX_CAST = 2


@dataclass(frozen=True)
class Found:
    """A concept file for the starter's cast."""

    name: str
    file: Path


def write_starter(file: Path, concepts: Path = CONCEPTS) -> list[Found]:
    """The cast of the starter that is written to `file`: the newest concepts of a folder, or nobody. Raises UserError where it exists."""
    cast = newest_cast(concepts)
    with explained(file):
        try:
            with file.open("x", encoding="utf-8") as opened:
                opened.write(starter(cast))
        except FileExistsError:
            remedy = f"give another name, or look at it: cdvideo storyboard check {file}"
            raise UserError(f"{file} exists already, and is left as it is", remedy=remedy) from None
        except FileNotFoundError:
            raise UserError(f"there is no folder {file.parent}", remedy=f"make it: mkdir -p {file.parent}") from None
    return cast


def newest_cast(folder: Path) -> list[Found]:
    """The newest concepts of one subject in a folder, made for the same base, at most one for each class word."""
    cast: list[Found] = []
    fingerprint = None
    for file in sorted(folder.glob("*.safetensors"), key=os.path.getmtime, reverse=True):
        try:
            header = read_header(file)
        except UserError:
            continue
        if len(header.tokens) != 1 or (fingerprint and header.fingerprint != fingerprint):
            continue
        name = re.sub(r"[^A-Za-z0-9_-]", "-", header.class_words[0])
        if not name[:1].isalpha() or name in [found.name for found in cast]:
            continue
        fingerprint = header.fingerprint
        cast.append(Found(name, file))
        if len(cast) == MAX_CAST:
            break
    return cast


def starter(cast: list[Found]) -> str:
    """The text of a storyboard with this cast, or with one of pocket's own subjects."""
    names = [f"{{{found.name}}}" for found in cast] or ["a panda"]
    people = [f"  {found.name}: {found.file.as_posix()}" for found in cast]
    if cast:
        longer = f"  # {cast[0].name}: {{concept: {cast[0].file.as_posix()}, strength: 0.8}}   # 1 is the concept as it was trained"
        who = ["cast:", *people, longer]
    else:
        who = ["# cast:", "#   bear: concepts/bear.safetensors   # made by: cdvideo train samples/bear --class bear"]
    return _STARTER.format(who="\n".join(who), first=names[0], second=names[-1], last=" and ".join(names))


_STARTER = """\
# A film as a list of shots.
#   cdvideo storyboard check FILE     finds every mistake
#   cdvideo storyboard render FILE    makes the film

title: My first film                    # names the film and its files

# Who plays: a name of your choice and the concept file that `cdvideo train` made. Prompts say the name in braces.
{who}

# What all shots have in common to the eye.
# look:
#   style: soft light, film grain       # words behind every prompt
#   negative: blurry, text              # what is not to be seen

# What holds for every shot that does not say otherwise.
defaults:
  fps: 8                                # frames a second
  seconds: 2                            # length of a shot; or frames: 16
  # size: 512x384                       # pixels; the base's own by default
  # transition: crossfade               # cut, crossfade, dip-to-black, wipe-left, -right, -up or -down

shots:
  # Text that begins with a brace needs quotes.
  - prompt: "{first} on the beach"
    seed: 1                             # another seed, another picture

  - prompt: "{second} in the snow at night"
    seed: 2
    # camera: zoom-in:0.6               # or several: [zoom-in, "pan-left:0.6"]
    # transition: {{kind: crossfade, seconds: 0.5}}
    # caption: It is cold.              # {{text: It is cold., burn: true}} draws it into the picture

  - prompt: "{last} on the stage"
    seed: 3
    # prompts: {{0: "{first} on the stage", 12: "{first} at night"}}   # instead of prompt: one turns into the next
    # continue: true                    # begins with the last frame of the shot before
    # takes: 3                          # renders it three times and keeps the best

# font: MyFont.ttf                      # of captions and cards; a plain one by default
# title_card: {{subtitle: a film by me}}     # the title before the first shot
# end_card: {{text: The end, seconds: 2}}
# audio: {{file: music.mp3, fade_out: 1}}
"""
