"""Weights in prompts, as their notation says."""

import pytest

from cdvideo.animate.weights import parse_weights
from cdvideo.errors import UserError


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a bear", [("a bear", 1)]),
        ("", []),
        ("a (bear:1.3) in snow", [("a ", 1), ("bear", 1.3), (" in snow", 1)]),
        ("a (bear) and ((cat))", [("a ", 1), ("bear", 1.1), (" and ", 1), ("cat", 1.21)]),
        ("a [bear] and [cat:0.7]", [("a ", 1), ("bear", 1 / 1.1), (" and ", 1), ("cat", 0.7)]),
        ("((deep snow:1.5) at night:0.8)", [("deep snow", 1.2), (" at night", 0.8)]),
        ("(bear : 1.3 )", [("bear ", 1.3)]),
        (r"a bear \(brown\) \[x\] 3\:1", [("a bear (brown) [x] 3:1", 1)]),
        (r"(at 10\:30)", [("at 10:30", 1.1)]),
        ("time 10:30, ratio (a:b)", [("time 10:30, ratio ", 1), ("a:b", 1.1)]),
        (r"back\slash", [(r"back\slash", 1)]),
        ("a ([V] bear:1.2)", [("a ", 1), ("[V] bear", 1.2)]),
        ("a (V(1)* bear:1.2)", [("a ", 1), ("V(1)* bear", 1.2)]),
        ("a ()bear", [("a bear", 1)]),
    ],
)
def test_parts_and_their_weights(prompt, parts):
    found = parse_weights(prompt, tokens=["[V]", "V(1)*"])
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a (bear", r"\( without"),
        ("a bear)", r"\) without"),
        ("a (bear]", "] without"),
        ("(bear:-1)", "-1 is no"),
        ("(bear:11)", "11 is no"),
    ],
)
def test_what_cannot_be_read_is_said(prompt, said):
    with pytest.raises(UserError, match=said) as refused:
        parse_weights(prompt)
    assert refused.value.remedy
