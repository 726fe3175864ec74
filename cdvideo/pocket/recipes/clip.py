"""The CLIP model and its tokenizer. Its text tower is the diffusion model's text encoder.

Pictures and captions are matched as in CLIP (Radford et al. 2021, figure 3); small heads that read subject, things, place, size, side and
motion from each tower's own feature make it learn faster and keep words in the text feature that one still picture cannot show.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from cdvideo.pocket.recipes.autoencoder import to_tensor
from cdvideo.pocket.recipes.run import Average, Run, constant_then_decay
from cdvideo.pocket.world.catalogue import COLOURS, HELD, MOTIONS, PLACES, SIZES, SUBJECTS, WORN
from cdvideo.pocket.world.scene import Painter, Scene, caption, sample_scene

NUM_POSITIONS = 32
IMAGE_SIDE = 64
LABELS: dict[str, list[str | None]] = {
    "subject": list(SUBJECTS),
    "worn": [None, *WORN],
    "held": [None, *HELD],
    "place": [*PLACES, *COLOURS],
    "size": list(SIZES),
    "side": [None, "left", "right"],
    "motion": [None, *MOTIONS],
}


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
    shared = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4, projection_dim=128)
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
        return torch.stack([F.cross_entropy(layer(features), labels[name], ignore_index=-1) for name, layer in self.layers.items()]).mean()

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
        return {name: float((layer(features).argmax(1) == labels[name]).float().mean()) for name, layer in self.layers.items()}


def labels_of(scenes: list[Scene]) -> dict[str, Tensor]:
    return {name: torch.tensor([options.index(getattr(scene, name)) for scene in scenes]) for name, options in LABELS.items()}


def labels_said(scenes: list[Scene], captions: list[str]) -> dict[str, Tensor]:
    """The labels that each caption states; -1 where it leaves a place or a side unsaid."""
    labels = labels_of(scenes)
    for index, (scene, text) in enumerate(zip(scenes, captions, strict=True)):
        if scene.place in COLOURS and "background" not in text:
            labels["place"][index] = -1
        if scene.side and f"on the {scene.side}" not in text:
            labels["side"][index] = -1
    return labels


def to_pixels(pictures: list[Image.Image]) -> Tensor:
    return to_tensor([picture.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BOX) for picture in pictures])


def train(painter: Painter, folder: Path, seconds: float, batch_size: int = 64) -> None:
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(folder / "tokenizer")
    model = build(tokenizer)
    said = Heads(192, tuple(LABELS))
    seen = Heads(192, ("subject", "worn", "held", "place", "size"))
    everything = nn.ModuleDict({"model": model, "said": said, "seen": seen})
    average = Average(everything, 0.997)
    optimiser = torch.optim.AdamW(everything.parameters(), lr=8e-4, betas=(0.9, 0.98), weight_decay=0.05)
    run = Run.open(folder, everything=everything, average=average, optimiser=optimiser)
    while run.elapsed < seconds:
        for group in optimiser.param_groups:
            group["lr"] = 8e-4 * constant_then_decay(run.elapsed / seconds)
        rng = np.random.default_rng((11, run.step))
        scenes = [sample_scene(rng) for _ in range(batch_size)]
        captions = [caption(scene, rng) for scene in scenes]
        pixels = to_pixels([painter.frame(scene, float(rng.random()), 64) for scene in scenes])
        with torch.autocast("cpu", torch.bfloat16):
            text, image, text_feature, image_feature = towers(model, tokenizer, captions, pixels)
        logits = model.logit_scale.exp().clamp(max=100) * text @ image.T
        target = torch.arange(batch_size)
        matching = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        reading = said.loss(text_feature, labels_said(scenes, captions)) + seen.loss(image_feature, labels_of(scenes))
        loss = matching + reading
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(everything.parameters(), 1.0)
        optimiser.step()
        average.update()
        run.step += 1
        if run.step % 100 == 0:
            with average.applied():
                run.log(loss=float(loss), matching=float(matching), **evaluate(painter, model, tokenizer, said, seen))
            run.save(everything=everything, average=average, optimiser=optimiser)
    run.save(everything=everything, average=average, optimiser=optimiser)


def towers(model: CLIPModel, tokenizer: CLIPTokenizer, captions: list[str], pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalised projections of texts and pictures, (N, 128) each, and the features before projection, (N, 192) each."""
    tokens = tokenizer(captions, padding="max_length", max_length=NUM_POSITIONS, truncation=True, return_tensors="pt")
    text_feature = model.text_model(input_ids=tokens.input_ids).pooler_output.float()
    image_feature = model.vision_model(pixel_values=pixels).pooler_output.float()
    text = F.normalize(model.text_projection(text_feature).float(), dim=-1)
    image = F.normalize(model.visual_projection(image_feature).float(), dim=-1)
    return text, image, text_feature, image_feature


@torch.no_grad()
def evaluate(painter: Painter, model: CLIPModel, tokenizer: CLIPTokenizer, said: Heads, seen: Heads, count: int = 128) -> dict[str, float]:
    rng = np.random.default_rng(10**9 + 1)
    scenes = [sample_scene(rng) for _ in range(count)]
    captions = [caption(scene, rng) for scene in scenes]
    pixels = to_pixels([painter.frame(scene, 0.3, 64) for scene in scenes])
    text, image, text_feature, image_feature = towers(model, tokenizer, captions, pixels)
    labels = labels_said(scenes, captions)
    spoken = said.accuracy(text_feature, labels)
    shown = seen.accuracy(image_feature, labels_of(scenes))
    recall = float(((text @ image.T).argmax(1) == torch.arange(count)).float().mean())
    return {"recall_at_1": recall, "said_motion": spoken["motion"], "said_subject": spoken["subject"], "seen_subject": shown["subject"]}


def finished(folder: Path) -> tuple[CLIPModel, CLIPTokenizer]:
    """The averaged CLIP model and its tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = build(tokenizer)
    names = nn.ModuleDict(
        {"model": model, "said": Heads(192, tuple(LABELS)), "seen": Heads(192, ("subject", "worn", "held", "place", "size"))}
    )
    average = Average(names, 0.997)
    Run.open(folder, average=average)
    average.put()
    return model.eval(), tokenizer
