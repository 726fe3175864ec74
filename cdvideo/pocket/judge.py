"""The judge: what a picture shows and where its subject is, read by a small network trained on the picture world's scenes.

It has never seen a picture that the model made, nor any weight of the model, so it may judge the model's pictures.

Shapes: `N` pictures, `F` frames of one clip, `C` channels, `H` heads, `K` options of a label, `S` subjects, `P` cells of the coarsest map.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights" / "judge"
FILE, CONFIG = "judge.safetensors", "config.json"
SIDE = 128
WIDTHS = (32, 64, 128, 144)
CLEAR = 0.5
"""How probable a subject has to be to count as there."""
AT_ONCE = 64

Labels = dict[str, list[str | None]]
"""By name of the label, its options; or, for pictures, the option that each shows."""


class Network(nn.Module):
    """Logits of every label and the subject's pose, for pictures (N, 3, SIDE, SIDE) in [-1, 1].

    Each head has its own weights over the cells of the last map, so that a small subject is not averaged away. The pose is what the
    cells say by these weights: their own position and a correction.
    """

    def __init__(self, num_options: dict[str, int], widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.names = tuple(num_options)
        first, *others = widths
        layers: list[nn.Module] = [nn.Conv2d(3, first, 5, stride=2, padding=2)]
        for before, after, blocks in zip(widths, others, (2, 2, 1), strict=False):
            layers += [_norm(before), nn.ReLU(), nn.Conv2d(before, after, 3, stride=2, padding=1)]
            layers += [Residual(after) for _ in range(blocks)]
        self.body = nn.Sequential(*layers, _norm(widths[-1]), nn.ReLU())
        self.attention = nn.Conv2d(widths[-1], len(self.names) + 1, 1)
        heads = {name: nn.Linear(widths[-1], count) for name, count in num_options.items()}
        # Few of the many subjects are in a picture.
        nn.init.constant_(heads["subject"].bias, -math.log(num_options["subject"]))
        self.heads = nn.ModuleDict(heads)
        self.pose = nn.Linear(widths[-1], 5)
        nn.init.zeros_(self.pose.weight)

    def forward(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits (N, K) by label, and (N, 5): x, y, logarithm of the height, sine and cosine of the angle."""
        cells = self.body(pictures)
        weights = self.attention(cells).flatten(2).float().softmax(-1)  # (N, H, P)
        read = weights @ cells.flatten(2).float().transpose(1, 2)  # (N, H, C)
        logits = {name: self.heads[name](read[:, index]).float() for index, name in enumerate(self.names)}
        centres = (torch.arange(cells.shape[-1], device=cells.device) + 0.5) / cells.shape[-1]
        weight = weights[:, -1].unflatten(-1, cells.shape[-2:])
        looked_at = torch.stack([weight.sum(1) @ centres, weight.sum(2) @ centres], -1)
        return logits, self.pose(read[:, -1]).float() + F.pad(looked_at, (0, 3))


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = _norm(width), nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // 16, width)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the judge sees in pictures (N, ...).

    `labels["subject"]` is the subject it is surest of, and None where none is clear; `subjects` are all that are clear, the surest first.
    `confidences` has for each label the probability of the option said; where no subject is clear, that of the likeliest.
    `presence` (N, S) is the probability that each subject is there. `poses` (N, 4) are the subject's centre x and y and its height, as
    fractions of the picture's side, and its angle in radians, clockwise. With two subjects the pose is that of the one on the left.
    """

    labels: Labels
    confidences: dict[str, NDArray[np.float32]]
    subjects: list[list[str | None]]
    presence: NDArray[np.float32]
    poses: NDArray[np.float32]


class Judge:
    """Sees what pictures show. `options` are each label's, in the order of the network's logits."""

    def __init__(self, network: Network, options: Labels) -> None:
        self.network = network.eval()
        self.options = options

    @classmethod
    def load(cls, folder: Path = WEIGHTS) -> Judge:
        """The judge that `save` wrote to `folder`; without one, the judge that ships with pocket."""
        options: Labels = json.loads((folder / CONFIG).read_text())["labels"]
        network = Network({name: len(listed) for name, listed in options.items()})
        network.load_state_dict({name: value.float() for name, value in load_file(folder / FILE).items()})
        return cls(network, options)

    def look(self, frames: NDArray[np.uint8]) -> Seen:
        """What each of the square RGB pictures (N, height, width, 3) shows. Pictures of another side are brought to `SIDE` pixels.

        Raises ValueError where `frames` is anything else.
        """
        logits, raw = self._read(frames)
        presence = logits["subject"].sigmoid()
        probabilities = {name: presence if name == "subject" else values.softmax(-1) for name, values in logits.items()}
        likeliest = {name: values.max(-1) for name, values in probabilities.items()}
        labels: Labels = {name: [self.options[name][index] for index in best.indices.tolist()] for name, best in likeliest.items()}
        order = presence.argsort(dim=-1, descending=True).tolist()
        num_clear = (presence >= CLEAR).sum(-1).tolist()
        named = self.options["subject"]
        subjects = [[named[index] for index in ranked[:count]] for ranked, count in zip(order, num_clear, strict=True)]
        labels["subject"] = [found[0] if found else None for found in subjects]
        poses = torch.stack([raw[:, 0], raw[:, 1], raw[:, 2].exp(), torch.atan2(raw[:, 3], raw[:, 4])], -1)
        return Seen(
            labels=labels,
            confidences={name: best.values.numpy() for name, best in likeliest.items()},
            subjects=subjects,
            presence=presence.numpy(),
            poses=poses.numpy(),
        )

    def predict(self, frames: NDArray[np.uint8]) -> Labels:
        """Each label's option for each picture; see `look`."""
        return self.look(frames).labels

    def motion(self, frames: NDArray[np.uint8]) -> str | None:
        """The subject's motion in a clip (F, height, width, 3) before a camera at rest; None where it stays where it is."""
        poses = self.look(frames).poses
        return motion_of(poses, *turns(frames, poses))

    @torch.no_grad()
    def _read(self, frames: NDArray[np.uint8]) -> tuple[dict[str, Tensor], Tensor]:
        _check(frames)
        device = next(self.network.parameters()).device
        parts = [self.network(to_input(frames[start : start + AT_ONCE]).to(device)) for start in range(0, len(frames), AT_ONCE)]
        logits = {name: torch.cat([part[0][name] for part in parts]).cpu() for name in self.options}
        return logits, torch.cat([part[1] for part in parts]).cpu()


def _check(frames: NDArray[np.uint8]) -> None:
    if frames.dtype != np.uint8:
        raise ValueError(f"frames are {frames.dtype}, not uint8")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[1] != frames.shape[2] or not frames.size:
        raise ValueError(f"frames are {frames.shape}, not (N, side, side, 3) with at least one picture")


def to_input(frames: NDArray[np.uint8]) -> Tensor:
    """Pictures as the network takes them."""
    pictures = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if pictures.shape[-1] == SIDE:
        return pictures
    return F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


ENOUGH = 0.45
"""The share of a motion's usual strength from which on it is seen."""


def motion_of(track: NDArray[np.floating], tilt: NDArray[np.floating], width: NDArray[np.floating]) -> str | None:
    """The motion of a subject whose pose (x, y, height, angle) at each frame of one clip is `track` (F, 4); None for none of them.

    `tilt` and `width` (F,) are how far it leans and how wide it looks at each frame, see `turns`. Seven strengths are measured, each 1 for
    a motion as the picture world usually makes it, and the strongest wins. They rest on medians over the clip (the spin, narrow only
    for moments, on a mean), so that a frame that is misread does little.
    """
    if track.ndim != 2 or track.shape[1] != 4 or len(track) < 4:
        raise ValueError(f"a track is (frames, 4) with at least four frames, not {track.shape}")
    moments = np.arange(len(track)) / len(track)
    x, y, growth = (_slope(moments, values) for values in (track[:, 0], track[:, 1], np.log(track[:, 2])))
    strengths = {
        "left": -x / 0.44,
        "right": x / 0.44,
        "float": -y / 0.36,
        "approach": growth / 0.6,
        "jump": _spread(moments, track[:, 1]) / 0.049,
        "nod": _spread(moments, tilt) / 0.15,
        "spin": float(np.mean(np.abs(width - np.median(width)))) / 0.23,
    }
    strongest = max(strengths, key=lambda name: strengths[name])
    return strongest if strengths[strongest] >= ENOUGH else None


LEANS, WIDTHS_SEEN = torch.linspace(-0.75, 0.75, 31), torch.linspace(0.2, 1.0, 9)
"""The turns in the picture that `turns` tries, in radians, and the widths of a subject that turns about its upright axis."""
CELLS, REACH = 32, 0.55


@torch.no_grad()
def turns(frames: NDArray[np.uint8], poses: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """How far a subject leans in each frame (F, side, side, 3), in radians clockwise, and how wide it looks, both (F,) against the first.

    The network reads a small lean as even smaller, and no width at all. So the first frame's subject is leaned, or narrowed and perhaps
    mirrored, about its centre, which `poses` (F, 4) gives, until it looks most like each frame's: the best normalised correlation in a soft
    window over it. A subject does one or the other: whichever explains the clip as a whole better.
    """
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, CELLS)] * 2, indexing="ij")
    window = torch.exp(-2 * (x**2 + y**2))
    pictures = torch.from_numpy(np.array(frames)).permute(0, 3, 1, 2).float()
    narrowed = torch.cat([-WIDTHS_SEEN, WIDTHS_SEEN])
    leans = torch.cat([LEANS, torch.zeros(len(narrowed))])
    widths = torch.cat([torch.ones(len(LEANS)), narrowed])

    def cut(index: int, leans: Tensor, widths: Tensor) -> Tensor:
        """The subject seen with each lean and width undone, (A, D), each of length 1."""
        centre_x, centre_y, height = (float(value) for value in poses[index, :3])
        cos, sin = leans.cos()[:, None, None], leans.sin()[:, None, None]
        way, across = REACH * height, widths[:, None, None] * x
        places = torch.stack([centre_x + way * (cos * across - sin * y), centre_y + way * (sin * across + cos * y)], -1) * 2 - 1
        picture = pictures[index].expand(len(leans), -1, -1, -1)
        values = F.grid_sample(picture, places, padding_mode="border", align_corners=False)
        values = (values - (values * window).sum((2, 3), keepdim=True) / window.sum()) * window.sqrt()
        return F.normalize(values.flatten(1), dim=1)

    first = cut(0, torch.zeros(1), torch.ones(1))[0]
    likeness = torch.stack([cut(index, leans, widths) @ first for index in range(len(pictures))])
    leaning, turning = likeness[:, : len(LEANS)].max(1), likeness[:, len(LEANS) :].max(1)
    if leaning.values.sum() > turning.values.sum():
        return leans[leaning.indices].numpy(), np.ones(len(pictures), np.float32)
    return np.zeros(len(pictures), np.float32), narrowed[turning.indices].abs().numpy()


def _slope(moments: NDArray[np.floating], values: NDArray[np.floating]) -> float:
    """The median of the slopes between all pairs of values (Theil and Sen)."""
    later, earlier = np.tril_indices(len(values), -1)
    return float(np.median((values[later] - values[earlier]) / (moments[later] - moments[earlier])))


def _spread(moments: NDArray[np.floating], values: NDArray[np.floating]) -> float:
    """The median distance of the values from the line through them."""
    left = values - _slope(moments, values) * moments
    return float(np.median(np.abs(left - np.median(left))))
