"""Who plays in a shot, and what tokens its prompt has."""

from pathlib import Path

from cdvideo.concept import UNKNOWN
from cdvideo.storyboard.casting import assemble, company
from cdvideo.storyboard.script import Storyboard
from tests.storyboard.headers import header

BEAR, SUNGLASSES = header("bear"), header("sunglasses")


def cast_in(shot, *, style=None, members=None, **headers):
    """The company of one shot, where every member's file is called as it is; `headers` by file, `members` by name."""
    board = Storyboard.model_validate(
        {"title": "t", "cast": members or {name: name for name in headers}, "look": {"style": style}, "shots": [shot]}
    )
    files = {name: member.concept for name, member in board.cast.items()}
    cast, troubles = assemble(board.cast, files, {Path(file): made for file, made in headers.items()})
    assert not troubles, troubles
    return company(board, 0, cast)


def prompt_of(text, **headers):
    found = cast_in({"prompt": text}, **headers)
    assert not found.troubles, found.troubles
    return found.prompts[0], [star.names[0] for star in found.starring]


def said_of(shot, **headers):
    return [(trouble.message, trouble.suggestion) for trouble in cast_in(shot, **headers).troubles]


def test_a_name_becomes_the_token_and_the_class_word():
    assert prompt_of("a {bear} reading", bear=BEAR) == ("a V* bear reading", ["bear"])
    assert prompt_of("a {bear}, a {bear}", bear=header("toy", tokens=("<ted>",))) == ("a <ted> toy, a <ted> toy", ["bear"])


def test_tokens_are_numbered_in_company_and_not_alone():
    both = {"bear": BEAR, "glasses": SUNGLASSES}
    assert prompt_of("a {bear} with {glasses}", **both) == ("a V1* bear with V2* sunglasses", ["bear", "glasses"])
    assert prompt_of("{glasses} on a {bear}", **both) == ("V2* sunglasses on a V1* bear", ["bear", "glasses"])
    assert prompt_of("{glasses} on the beach", **both) == ("V* sunglasses on the beach", ["glasses"])
    assert prompt_of("the beach", **both) == ("the beach", [])


def test_a_prompt_may_say_tokens_as_the_cast_numbers_them():
    three = {"bear": BEAR, "owl": header("owl"), "glasses": SUNGLASSES}
    assert prompt_of("a V3* pair on a V1* bear", **three) == ("a V2* pair on a V1* bear", ["bear", "glasses"])
    assert prompt_of("a V2* owl", **three) == ("a V* owl", ["owl"])
    assert prompt_of("a V* bear", bear=BEAR) == ("a V* bear", ["bear"])
    assert prompt_of("a V1* bear", bear=header("bear", tokens=("V1*",)), owl=header("owl")) == ("a V1* bear", ["bear"])


def test_a_token_inside_a_word_is_none():
    assert prompt_of("sksual sks bear", bear=header("bear", tokens=("sks",))) == ("sksual sks bear", ["bear"])
    assert prompt_of("sksual bear", bear=header("bear", tokens=("sks",)))[1] == []


def test_a_file_of_several_concepts_plays_as_one_and_is_named_by_class():
    pair = header("bear", "owl")
    found = cast_in({"prompt": "a {ted} and {owl}"}, members={"ted": {"concept": "f", "class": "bear"}, "owl": "f"}, f=pair)
    assert found.prompts[0] == "a V1* bear and V2* owl" and [star.names for star in found.starring] == [("ted", "owl")]
    beside = cast_in({"prompt": "{owl} and {ted}"}, members={"owl": "f", "ted": "g"}, f=pair, g=header("toy", tokens=("V1*",)))
    assert beside.prompts[0] == "V2* owl and V3* toy", "the owl's number is taken"
    assert beside.starring[1].tokens == {"V1*": "V3*"}


def test_an_unknown_class_word_is_the_castings_or_nobodys():
    imported = header(UNKNOWN)
    assert cast_in({"prompt": "a {bear}"}, bear=imported).prompts[0] == "a V*"
    assert cast_in({"prompt": "a {bear}"}, members={"bear": {"concept": "f", "class": "toy"}}, f=imported).prompts[0] == "a V* toy"


def test_prompts_by_frame_share_a_company():
    found = cast_in({"prompts": {0: "a {bear}", 8: "{glasses}"}}, bear=BEAR, glasses=SUNGLASSES)
    assert found.prompts == {0: "a V1* bear", 8: "V2* sunglasses"}


def test_prompts_are_judged_without_tokens():
    found = cast_in({"prompt": "a {bear} and a V2* pair"}, bear=BEAR, glasses=SUNGLASSES)
    assert found.plain_prompts == {0: "a bear and a pair"}


def test_the_style_follows_every_prompt_and_may_star_somebody():
    found = cast_in({"prompt": "a {bear}"}, style="painted by {anna}", bear=BEAR, anna=header("painter", tokens=("<anna>",)))
    assert found.prompts[0] == "a V* bear, painted by <anna> painter" and len(found.starring) == 2


def test_strengths_are_the_members_own_unless_the_shot_says_otherwise():
    members = {"bear": {"concept": "bear", "strength": 0.8}, "glasses": "glasses"}
    found = cast_in({"prompt": "{bear} {glasses}", "strengths": {"glasses": "8:0.3, 0:1"}}, members=members, bear=BEAR, glasses=SUNGLASSES)
    assert [star.strengths for star in found.starring] == [{0: 0.8}, {0: 1.0, 8: 0.3}]


def test_one_file_has_one_strength():
    members = {"ted": {"concept": "f", "class": "bear", "strength": 0.5}, "owl": "f"}
    found = cast_in({"prompt": "{ted} {owl}"}, members=members, f=header("bear", "owl"))
    assert "one concept file, which has one strength" in found.troubles[0].message
    assert not cast_in({"prompt": "{ted} {owl}", "strengths": {"ted": 0.7}}, members=members, f=header("bear", "owl")).troubles


def test_starring_says_who_plays_and_what_a_token_means():
    both = {"bear": BEAR, "glasses": SUNGLASSES}
    found = cast_in({"prompt": "a V* bear", "starring": "bear"}, **both)
    assert found.prompts[0] == "a V* bear" and not found.troubles
    unnamed = cast_in({"prompt": "a beach", "starring": ["bear"]}, **both)
    assert [star.names for star in unnamed.starring] == [("bear",)] and unnamed.unnamed == ("bear",)
    assert not cast_in({"prompt": "a beach", "starring": []}, **both).starring


def test_what_cannot_be_cast_is_said_with_a_way_out():
    both = {"bear": BEAR, "glasses": SUNGLASSES}
    assert said_of({"prompt": "a {baer}"}, **both) == [("the cast has no {baer}", "did you mean bear?")]
    assert said_of({"prompt": "a { bear }"}, **both) == [("{ bear } has spaces in it", "write {bear}")]
    assert said_of({"prompt": "a {bear"}, **both) == [("a brace is open or closed without its other half", "write names as {bear}")]
    assert said_of({"prompt": "a V* bear"}, **both) == [("V* may be bear or glasses", "write {bear} or {glasses}")]
    assert said_of({"prompt": "a V3* bear"}, **both) == [("nobody in the cast is called V3*", "write {bear} or {glasses}")]
    assert said_of({"prompt": "a <cat>"}, **both)[0][0] == "nobody in the cast is called <cat>"
    assert "the film has no cast" in said_of({"prompt": "a {bear}"})[0][1]
    assert "the film has no cast" in said_of({"prompt": "a V* bear"})[0][1]
    assert said_of({"prompt": "a", "starring": ["baer"]}, **both) == [("the cast has no baer", "did you mean bear?")]
    assert said_of({"prompt": "a", "strengths": {"baer": 1}}, **both) == [("the cast has no baer", "did you mean bear?")]
    assert said_of({"prompt": "a", "strengths": {"bear": 1}}, **both)[0][0] == "bear does not play in this shot"
    assert said_of({"prompt": "a {bear}", "starring": "glasses"}, **both)[0][0] == "the prompt or the style names bear, who does not play"
    assert said_of({"prompt": "a V1* bear", "starring": "glasses"}, **both)[0][0] == "the prompt or the style names bear, who does not play"


def test_what_cannot_be_a_member_of_the_cast_is_said():
    def trouble(made, **member):
        board = Storyboard.model_validate({"title": "t", "cast": {"x": {"concept": "f", **member}}, "shots": [{"prompt": "a"}]})
        (found,) = assemble(board.cast, {"x": Path("f")}, {Path("f"): made})[1]
        return found.message, found.suggestion

    assert trouble(header("bear", "owl")) == ("f holds several concepts: bear, owl", "say which: {concept: ..., class: bear}")
    assert trouble(BEAR, **{"class": "cat"}) == ("f is no cat", "its class is bear; leave the class out")
    assert trouble(header("bear", "owl"), **{"class": "cat"})[1] == "its class is bear or owl; leave the class out"


def test_members_whose_file_is_missing_may_be_named():
    board = Storyboard.model_validate({"title": "t", "cast": {"bear": "f"}, "shots": [{"prompt": "a {bear} and V2* x"}]})
    cast, troubles = assemble(board.cast, {}, {})
    assert not troubles and not company(board, 0, cast).troubles
