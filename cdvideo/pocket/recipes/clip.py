"""The CLIP model and its tokenizer. Its text tower is the diffusion model's text encoder.

Pictures and captions are matched as in CLIP (Radford et al. 2021, figure 3); small heads that read subject, things, place, size, side and
motion from each tower's own feature make it learn faster and keep words in the text feature that one still picture cannot show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from cdvideo.pocket.recipes.alone import train_alone
from cdvideo.pocket.recipes.autoencoder import to_tensor
from cdvideo.pocket.recipes.device import mixed_precision, training_device
from cdvideo.pocket.recipes.pictures import grid
from cdvideo.pocket.recipes.run import Average, Run
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.places import PLACES
from cdvideo.pocket.world.scene import LABELS, Scene, labels_of, sample_scene
from cdvideo.pocket.world.wording import caption

NUM_POSITIONS = 32
IMAGE_SIDE = 64
WIDTH = 192
DECAY = 0.997
SEEN = ("subject", "worn", "held", "place", "colour", "size")
"""The labels that one picture shows."""


def train_tokenizer(seed: int = 0, count: int = 30_000) -> CLIPTokenizer:
    """A byte-level BPE of CLIP's kind over the world's captions; words that it has never seen split into letters."""
    rng = np.random.default_rng(seed)
    captions = [caption(sample_scene(rng), rng) for _ in range(count)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        captions, trainers.BpeTrainer(vocab_size=2000, min_frequency=20, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    )
    merges = _merges(bpe)
    pieces = sorted(alphabet)
    vocabulary = pieces + [piece + "</w>" for piece in pieces]
    vocabulary += [first + second for first, second in merges]
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(vocabulary)}, merges=merges, model_max_length=NUM_POSITIONS)


def _merges(bpe: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [(first, second) for first, second in json.loads(bpe.to_str())["model"]["merges"]]


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    shared = dict(hidden_size=WIDTH, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, projection_dim=128)
    specials = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.eos_token_id)
    text = dict(shared, vocab_size=len(tokenizer), max_position_embeddings=NUM_POSITIONS, **specials)
    vision = dict(shared, image_size=IMAGE_SIDE, patch_size=8)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


class Heads(nn.Module):
    """Reads the world's labels from one tower's projected feature."""

    def __init__(self, width: int, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(width, len(LABELS[name])) for name in names})

    def loss(self, features: Tensor, labels: dict[str, Tensor]) -> Tensor:
        labels = {name: labels[name].to(features.device) for name in self.layers}
        return torch.stack([F.cross_entropy(layer(features), labels[name], ignore_index=-1) for name, layer in self.layers.items()]).mean()

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
        """The share of right answers among the labels that are known."""
        right = {name: (layer(features).argmax(1).cpu() == labels[name])[labels[name] >= 0] for name, layer in self.layers.items()}
        return {name: float(answers.float().mean()) for name, answers in right.items()}


def labels_said(scenes: list[Scene], captions: list[str]) -> dict[str, Tensor]:
    """The labels that each caption states; -1 where it leaves one unsaid."""
    labels = labels_of(scenes)
    for index, (scene, text) in enumerate(zip(scenes, captions, strict=True)):
        if scene.subject not in text:
            for values in labels.values():
                values[index] = -1
        if not any(words in text for words in PLACES.get(scene.place, (f"{scene.place} background",))):
            labels["place"][index] = -1
        if scene.side and f"on the {scene.side}" not in text:
            labels["side"][index] = -1
    return labels


def to_pixels(pictures: list[Image.Image]) -> Tensor:
    return to_tensor([picture.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BOX) for picture in pictures])


@dataclass(frozen=True)
class Lesson:
    """The model, its tokenizer, and the heads that help it learn: of what a caption says and of what a picture shows."""

    model: CLIPModel
    tokenizer: CLIPTokenizer
    said: Heads
    seen: Heads

    @classmethod
    def new(cls, tokenizer: CLIPTokenizer) -> Lesson:
        return cls(build(tokenizer), tokenizer, Heads(WIDTH, tuple(LABELS)), Heads(WIDTH, SEEN))

    @classmethod
    def finished(cls, joint: Path, vision: Path | None = None) -> Lesson:
        """What `train` left in `joint` and, where given, `train_vision` in `vision`: the averaged weights."""
        lesson = cls.new(CLIPTokenizer.from_pretrained(joint / "tokenizer"))
        for folder in (joint, vision):
            if folder:
                if folder == vision:
                    lesson.freeze_text()
                average = Average(lesson.modules, DECAY)
                Run.open(folder, average=average)
                average.put()
        return lesson

    @property
    def modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"model": self.model, "said": self.said, "seen": self.seen})

    def freeze_text(self) -> None:
        """Leaves only what looks at pictures to be trained."""
        self.modules.requires_grad_(False)
        for part in (self.model.vision_model, self.model.visual_projection, self.seen):
            part.requires_grad_(True)


def train(painter: Painter, folder: Path, seconds: float) -> None:
    """Trains both towers for `seconds` in all."""
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    _train(Lesson.new(tokenizer), painter, folder, seconds)


def train_vision(painter: Painter, joint: Path, folder: Path, seconds: float) -> None:
    """Goes on with the image tower alone, from what `train` left in `joint`, for `seconds` in all. Text states stay what they are."""
    lesson = Lesson.finished(joint)
    lesson.freeze_text()
    _train(lesson, painter, folder, seconds)


def _train(lesson: Lesson, painter: Painter, folder: Path, seconds: float) -> None:
    device = training_device()
    batch_size = 64 if device.type == "cpu" else 256
    everything = lesson.modules.to(device)
    target = torch.arange(batch_size, device=device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((11, step))
        scenes = [sample_scene(rng) for _ in range(batch_size)]
        captions = [caption(scene, rng) for scene in scenes]
        pixels = to_pixels([painter.frame(scene, float(rng.random()), IMAGE_SIDE) for scene in scenes])
        with mixed_precision(device):
            text, image, text_feature, image_feature = towers(lesson.model, lesson.tokenizer, captions, pixels)
        logits = lesson.model.logit_scale.exp().clamp(max=100) * text @ image.T
        matching = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        reading = lesson.said.loss(text_feature, labels_said(scenes, captions)) + lesson.seen.loss(image_feature, labels_of(scenes))
        return matching + reading

    def evaluate(finally_: bool) -> dict[str, float]:
        return held_out_accuracy(painter, lesson, 500 if finally_ else 128)

    train_alone(everything, folder, seconds, loss_at, evaluate, average_decay=DECAY)


def towers(model: CLIPModel, tokenizer: CLIPTokenizer, captions: list[str], pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalised projections of texts and pictures, (N, 128) each, and the features before projection, (N, 192) each."""
    tokens = tokenizer(captions, padding="max_length", max_length=NUM_POSITIONS, truncation=True, return_tensors="pt")
    text_feature = model.text_model(input_ids=tokens.input_ids.to(model.device)).pooler_output.float()
    image_feature = model.vision_model(pixel_values=pixels.to(model.device)).pooler_output.float()
    text = F.normalize(model.text_projection(text_feature).float(), dim=-1)
    image = F.normalize(model.visual_projection(image_feature).float(), dim=-1)
    return text, image, text_feature, image_feature


@torch.no_grad()
def held_out_accuracy(painter: Painter, lesson: Lesson, count: int) -> dict[str, float]:
    """How often a held-out caption finds its picture among `count`, and how often the heads are right."""
    rng = np.random.default_rng(10**9 + 1)
    scenes = [sample_scene(rng) for _ in range(count)]
    captions = [caption(scene, rng) for scene in scenes]
    pixels = to_pixels([painter.frame(scene, 0.3, IMAGE_SIDE) for scene in scenes])
    text, image, text_feature, image_feature = towers(lesson.model, lesson.tokenizer, captions, pixels)
    said = lesson.said.accuracy(text_feature, labels_said(scenes, captions))
    seen = lesson.seen.accuracy(image_feature, labels_of(scenes))
    recall = float(((text @ image.T).argmax(1).cpu() == torch.arange(count)).float().mean())
    return {
        "recall_at_1": recall,
        **{f"said_{name}": value for name, value in said.items()},
        **{f"seen_{name}": value for name, value in seen.items()},
    }


@torch.no_grad()
def show(painter: Painter, lesson: Lesson, captions: int = 8, pictures: int = 400) -> Image.Image:
    """Captions of held-out scenes and, below each, the four best matching pictures of many, best first."""
    rng = np.random.default_rng(10**9 + 3)
    scenes = [sample_scene(rng) for _ in range(pictures)]
    texts = [caption(scene, rng) for scene in scenes[:captions]]
    frames = [painter.frame(scene, 0.3) for scene in scenes]
    text, image, _, _ = towers(lesson.model, lesson.tokenizer, texts, to_pixels(frames))
    best = (text @ image.T).topk(4).indices.T.flatten().tolist()
    return grid([frames[index] for index in best], captions, [*texts, *[""] * (3 * captions)])
