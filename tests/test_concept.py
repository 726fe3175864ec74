import json
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdvideo.concept import Concept, ConceptHeader, Looks, find_concept, newest_for_prompt, read_header, read_looks
from cdvideo.errors import UserError


def make_concept(*tokens: str, fingerprint: str = "abc") -> Concept:
    tokens = tokens or ("V*",)
    header = ConceptHeader(base="pocket", fingerprint=fingerprint, tokens=tokens, class_words=("bear",) * len(tokens), steps=3)
    embeddings = {token: torch.randn(3) for token in tokens}
    return Concept(header=header, tuned={"mid.attn2.to_k.weight": torch.randn(4, 3)}, embeddings=embeddings)


def test_a_concept_survives_its_file(tmp_path):
    concept = make_concept()
    concept.save(tmp_path / "new" / "bear.safetensors")
    loaded = Concept.load(tmp_path / "new" / "bear.safetensors")
    assert loaded.header == concept.header
    assert torch.equal(loaded.tuned["mid.attn2.to_k.weight"], concept.tuned["mid.attn2.to_k.weight"])
    assert torch.equal(loaded.embeddings["V*"], concept.embeddings["V*"])
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "bear.safetensors"]


def test_a_path_may_be_a_string(tmp_path):
    make_concept().save(str(tmp_path / "bear.safetensors"))
    found = Concept.load(str(tmp_path / "bear.safetensors"))
    assert found.source == tmp_path / "bear.safetensors" and found.header.tokens == ("V*",)


def test_concepts_are_told_apart_and_shown_in_a_line():
    one, other = make_concept(), make_concept("V1*", "V2*")
    assert one != other and len({one, other, one}) == 2
    assert repr(other) == "Concept(V1* bear, V2* bear: classdiffusion for pocket)"


def test_a_concept_of_what_is_no_number_is_refused(tmp_path):
    path = tmp_path / "bear.safetensors"
    concept = make_concept()
    replace(concept, tuned={"mid.attn2.to_k.weight": torch.full((4, 3), float("nan"))}).save(path)
    with pytest.raises(UserError, match="values that are not numbers") as refused:
        Concept.load(path)
    assert "mid.attn2.to_k.weight" in refused.value.cause and "train" in refused.value.remedy


def test_what_the_photos_look_like_goes_along(tmp_path):
    path, features = tmp_path / "bear.safetensors", torch.randn(5, 8)
    concept = replace(make_concept(), looks={"V*": Looks(features, "0123")})
    assert concept.header.format_version == 4 and make_concept().header.format_version == 1
    assert len({concept.to_bytes() for _ in range(20)}) == 1, "the same file, and digest, every time"
    concept.renamed({"V*": "<bear>"}).save(path)
    for looks in (Concept.load(path).looks, read_looks(path)):
        assert looks.keys() == {"<bear>"} and looks["<bear>"].clip == "0123" and torch.equal(looks["<bear>"].features, features)
    assert concept.digest != replace(concept, looks={"V*": Looks(features, "4567")}).digest != make_concept().digest
    make_concept().save(path)
    assert read_looks(path) == Concept.load(path).looks == {}
    with pytest.raises(ValueError, match="other tokens"):
        replace(make_concept(), looks={"W*": Looks(features, "0123")})


@pytest.mark.parametrize(
    ("named", "told", "said"),
    [
        ("V*", {}, "is damaged"),
        ("V*", {"looks_by": [1]}, "is damaged"),
        ("V*", {"looks_by": {"W*": "0123"}}, "is damaged"),
        ("W*", {"looks_by": {"W*": "0123"}}, "looks of W\\*, which is no token of it"),
    ],
)
def test_looks_that_nobody_can_place_are_refused(tmp_path, named, told, said):
    path, concept = tmp_path / "bear.safetensors", make_concept()
    concept.save(path)
    header = json.dumps(json.loads(concept.header.to_json()) | told)
    save_file({**load_file(path), f"looks.{named}": torch.zeros(5, 8)}, path, {"cdvideo_concept": header})
    for read in (Concept.load, read_looks):
        with pytest.raises(UserError, match=said):
            read(path)


def test_the_header_is_read_without_torch(tmp_path):
    make_concept().save(tmp_path / "bear.safetensors")
    code = (
        "import sys; from pathlib import Path; from cdvideo.concept import read_header; "
        f"print(read_header(Path({str(tmp_path / 'bear.safetensors')!r})).tokens); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "('V*',)"


def test_another_reader_agrees_about_the_header(tmp_path):
    """The header as the format's specification lays it out: eight bytes of length, then JSON."""
    make_concept().save(tmp_path / "bear.safetensors")
    content = (tmp_path / "bear.safetensors").read_bytes()
    metadata = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]
    assert json.loads(metadata["cdvideo_concept"])["class_words"] == ["bear"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "not a safetensors file"), (b"\xff" * 64, "not a safetensors file"), (b"\x02\0\0\0\0\0\0\0{}", "no concept of cdvideo's")],
)
def test_other_files_are_refused(tmp_path, content, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_header(path)


def test_missing_and_cut_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such concept"):
        Concept.load(tmp_path / "none.safetensors")
    path = tmp_path / "bear.safetensors"
    make_concept().save(path)
    path.write_bytes(path.read_bytes()[:-8])
    for read in (Concept.load, read_header):
        with pytest.raises(UserError, match="was cut short"):
            read(path)


def test_strange_and_missing_tensors_are_refused_by_name(tmp_path):
    path = tmp_path / "bear.safetensors"
    make_concept().save(path)
    metadata = {"cdvideo_concept": make_concept().header.to_json()}
    save_file({**load_file(path), "stranger": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(UserError, match="stranger"):
        Concept.load(path)
    save_file({"unet.x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(UserError, match="V\\*"):
        Concept.load(path)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "bear.safetensors"
    make_concept().save(path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="cannot be written") as refused:
        make_concept().save(path)
    assert "the disk is full" in refused.value.cause
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_the_newest_concept_named_in_the_prompt_is_chosen(tmp_path):
    def newest(prompt):
        return [path.stem for path in newest_for_prompt(prompt, tmp_path)]

    for name, token in (("a", "V*"), ("b", "V*"), ("c", "<dog>")):
        make_concept(token).save(tmp_path / f"{name}.safetensors")
        time.sleep(0.02)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    assert newest("a V* bear") == ["b"]
    assert newest("a <dog> dog") == ["c"]
    assert newest("a bear") == []
    make_concept("sks").save(tmp_path / "d.safetensors")
    assert newest("a bear that asks a V* bear") == ["b"]
    assert newest("a <dog> dog asks a V* bear and an sks") == ["c", "b", "d"], "each token's newest, in the prompt's order"
    make_concept("V9*", fingerprint="of another base").save(tmp_path / "e.safetensors")
    assert newest("a V9* cat and a V* bear") == ["e"], "both cannot be in one base"
    assert newest_for_prompt("a V* bear", tmp_path / "none") == []


def test_a_concept_of_several_tokens_goes_before_newer_ones_of_fewer(tmp_path):
    make_concept("V1*", "V2*").save(tmp_path / "both.safetensors")
    time.sleep(0.02)
    make_concept("V1*").save(tmp_path / "one.safetensors")
    assert newest_for_prompt("a V1* bear and a V2* bear", tmp_path) == [tmp_path / "both.safetensors"]
    assert newest_for_prompt("a V1* bear", tmp_path) == [tmp_path / "one.safetensors"]


def test_a_bare_name_is_one_in_the_folder_of_concepts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside = Path("concepts/bear.safetensors")
    make_concept().save(inside)
    assert find_concept("bear") == find_concept("bear.safetensors") == find_concept(inside) == inside
    Path("bear").mkdir()
    assert find_concept("bear") == inside, "the folder is the photos'"
    assert find_concept("cat") == Path("cat") and find_concept("other/bear.safetensors") == Path("other/bear.safetensors")
    make_concept().save(Path("bear.safetensors"))
    assert find_concept("bear.safetensors") == Path("bear.safetensors"), "what is there goes first"
