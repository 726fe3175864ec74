"""Captions for the merge: of a concept's own, and of everything else, in words that a base's tokenizer knows. Imports no torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

OWN = ("{token} {word}", "photo of a {token} {word}")
"""The captions at which a merged concept has to do what the single one did; the second is the one that training uses."""

OWN_HELD_OUT = ("a {token} {word} reading a book", "a {token} {word} on the beach", "a {token} {word} wearing headphones in the snow")


def _phrases(text: str) -> list[str]:
    return [" ".join(phrase.split()) for phrase in text.split(",")]


_NOUNS = _phrases("""
    bear, dog, cat, panda, fox, rabbit, lion, tiger, frog, monkey, pig, penguin, horse, bird, fish, cow, sheep, elephant, duck, owl, man,
    woman, child, person, baby, king, queen, robot, doll, toy, teddy, car, bus, truck, train, boat, plane, bike, chair, table, bed, lamp,
    clock, cup, bottle, bowl, bag, shoe, hat, crown, book, laptop, camera, phone, guitar, piano, ball, flower, tree, house, castle, bridge,
    tower, city, street, garden, cake, pizza, bread, apple, trophy, sunglasses, headphones, backpack, vase, barn, sofa, statue, dress
""")
_ADJECTIVES = _phrases("""
    big, small, little, tiny, large, old, young, new, red, green, blue, yellow, pink, purple, white, black, golden, cute, happy, sad, proud,
    funny, sleepy, quiet, shiny, fluffy, soft, good, bad, beautiful, lovely, famous, brave, wooden, dark, bright, wet, broken, antique
""")
_PLACES = _phrases("""
    in the snow, on the beach, on the grass, at night, on a stage, in the forest, in a city, on a table, in the kitchen, in the rain,
    on the road, in a field, under the stars, by the sea, in the garden, on the moon, with a white background, with a blue background
""")
_ACTIONS = _phrases("""
    reading a book, writing a book, wearing headphones, wearing a hat, wearing sunglasses, walking left, walking right, jumping, nodding,
    running, sleeping, sitting, standing, eating, drinking, swimming, dancing, smiling, winning the nobel prize, holding a trophy
""")
_OPENINGS = ("a {}", "photo of a {}", "a photo of the {}", "the {}", "a picture of a {}", "close up photo of a {}", "{}")


def own_captions(templates: Sequence[str], token: str, class_word: str) -> list[str]:
    return [template.format(token=token, word=class_word) for template in templates]


def base_captions(tokenizer: Any, class_words: Sequence[str], num_captions: int, seed: int = 0) -> list[str]:
    """Up to `num_captions` different captions, each word of them one token of the tokenizer's; the same for the same seed.

    The class words come first among the nouns, so that every class is in many captions. Fewer come back from a tokenizer of few words.
    """
    known: dict[str, bool] = {}

    def knows(phrase: str) -> bool:
        for word in phrase.split():
            if word not in known:
                known[word] = len(tokenizer(word, add_special_tokens=False).input_ids) == 1
        return all(known[word] for word in phrase.split())

    nouns = [noun for noun in dict.fromkeys((*class_words, *_NOUNS)) if knows(noun)]
    phrases = {
        "adjective": ["", *filter(knows, _ADJECTIVES)],
        "place": ["", *filter(knows, _PLACES)],
        "action": ["", *filter(knows, _ACTIONS)],
        "opening": [opening for opening in _OPENINGS if knows(opening.replace("{}", ""))],
    }
    parts = (phrases["opening"], phrases["adjective"], nouns, phrases["action"], phrases["place"])
    draw = random.Random(seed)
    total = len(nouns) * len(phrases["opening"]) * len(phrases["adjective"]) * len(phrases["action"]) * len(phrases["place"])
    if total <= 4 * num_captions:
        every = [_caption(*chosen) for chosen in product(*parts)]
        draw.shuffle(every)
        return list(dict.fromkeys(every))[:num_captions]
    found: dict[str, None] = {}
    while len(found) < num_captions:
        found[_caption(*(draw.choice(part) for part in parts))] = None
    return list(found)


def _caption(opening: str, adjective: str, noun: str, action: str, place: str) -> str:
    return " ".join(part for part in (opening.format(f"{adjective} {noun}".strip()), action, place) if part)
