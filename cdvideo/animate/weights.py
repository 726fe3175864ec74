"""How much each part of a prompt counts, written in the prompt.

The notation is that of A1111's web interface, which ComfyUI reads too: `(text:1.3)` counts 1.3 times, `(text)` 1.1 times, `[text]` 1/1.1
times; nested, they multiply. `[text:0.7]` is 0.7 here, not A1111's prompt editing. A backslash before a bracket, a colon or a backslash
makes it a character of the text. What a weight does to the text states is `text_states.weighted`'s affair.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cdvideo.errors import UserError

BRACKET_WEIGHT = {"(": 1.1, "[": 1 / 1.1}
MAX_WEIGHT = 10.0
_CLOSING = {"(": ")", "[": "]"}
_PIECE = r"""
    \\(?P<escaped>[()\[\]:\\])
  | :\s*(?P<weight>[+-]?(?:\d+\.?\d*|\.\d+))\s*(?=[)\]])
  | (?P<open>[(\[])
  | (?P<close>[)\]])
  | (?P<text>.)
"""


@dataclass
class _Bracket:
    """An open bracket: which, where, and the first of the parts inside it."""

    kind: str
    position: int
    first: int


def parse_weights(prompt: str, tokens: Sequence[str] = ()) -> list[tuple[str, float]]:
    """The parts of the prompt, in order, with their weights; neighbours of one weight are one part. `tokens` are concepts', kept whole.

    Raises UserError where brackets do not match, or a weight is below 0 or above MAX_WEIGHT.
    """
    parts: list[tuple[str, float]] = []
    brackets: list[_Bracket] = []
    own = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    pattern = re.compile((f"(?P<token>{own}) |" if own else "") + _PIECE, re.VERBOSE | re.DOTALL)
    given: float | None = None
    for match in pattern.finditer(prompt):
        kind, position = match.lastgroup, match.start()
        if kind == "open":
            brackets.append(_Bracket(match["open"], position, len(parts)))
        elif kind == "weight" and brackets:
            given = float(match["weight"])
        elif kind == "close":
            if not brackets or _CLOSING[brackets[-1].kind] != match["close"]:
                raise _unmatched(prompt, position)
            bracket = brackets.pop()
            factor = BRACKET_WEIGHT[bracket.kind] if given is None else given
            parts[bracket.first :] = [(text, weight * factor) for text, weight in parts[bracket.first :]]
            given = None
        else:
            parts.append((match["escaped"] if kind == "escaped" else match[0], 1.0))
    if brackets:
        raise _unmatched(prompt, brackets[-1].position)
    wrong = [weight for _, weight in parts if not 0 <= weight <= MAX_WEIGHT]
    if wrong:
        raise UserError(
            f"{wrong[0]:g} is no weight in a prompt",
            remedy=f"weights go from 0 to {MAX_WEIGHT:g}; what is not to be seen goes to --negative",
        )
    return _joined(parts)


def _joined(parts: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    joined: list[tuple[str, float]] = []
    for text, weight in parts:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + text, weight)
        else:
            joined.append((text, weight))
    return joined


def _unmatched(prompt: str, position: int) -> UserError:
    character = prompt[position]
    return UserError(
        f"the prompt has a {character} without its partner: {prompt[max(0, position - 20) : position + 20]!r}",
        cause="brackets weigh what is inside them, as in (snow:1.3)",
        remedy=f"close it, or write \\{character} for the character itself",
    )
