"""`cdvideo concept` as a user meets it: what it reports, what every mistake says, and that nothing is lost by one."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file

from cdvideo.cli import main
from cdvideo.cli.concept import command as concept_command
from cdvideo.concept import Concept
from tests.interop.conftest import concept_of

pytestmark = pytest.mark.filterwarnings("ignore:the base .* is no Stable Diffusion", "ignore:the prompt is")


def call(*arguments: str):
    result = CliRunner().invoke(main, ["concept", *arguments], catch_exceptions=True)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def said_by(*arguments: str) -> dict:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def files(tiny_base, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    concept_of(tiny_base, seed=1).save(Path("bear.safetensors"))
    concept_of(tiny_base, ("V*",), ("cat",), seed=2).save(Path("cat.safetensors"))


def test_show_reads_the_header_without_torch():
    code = (
        "import sys; from cdvideo.cli import main\n"
        "try: main(['concept', 'show', 'bear.safetensors', '--json'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'numpy', 'safetensors', 'diffusers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    details = json.loads(done.stdout)
    assert (details["tokens"], details["class_words"], details["spl_weight"], details["steps"]) == (["V*"], ["bear"], 0.5, 7)
    assert details["training"]["photos"] == 5
    assert details["sizes"]["matrices"] == 8 and details["sizes"]["text_width"] == 32 and details["sizes"]["ranks"] == "full"
    assert details["sizes"]["file_bytes"] == Path("bear.safetensors").stat().st_size
    stored = load_file("bear.safetensors")
    assert details["sizes"]["matrices_bytes"] == sum(4 * value.numel() for name, value in stored.items() if name.startswith("unet."))


def test_a_bare_name_is_looked_up_among_the_concepts():
    Path("concepts").mkdir()
    Path("bear.safetensors").rename("concepts/bear.safetensors")
    assert said_by("show", "bear")["tokens"] == ["V*"]
    missing = call("show", "fox")
    assert missing.exit_code == 2 and "and in concepts" in missing.output


def test_show_tells_how_far_things_moved():
    plain = call("show", "bear.safetensors").output
    assert "tokens: V*" in plain and "class_words: bear" in plain and "steps: 7" in plain
    moved = said_by("show", "bear.safetensors", "--moved")["moved"]
    assert len(moved["layers"]) == 8 and 0.05 < moved["relative_change"] < 0.2
    assert set(moved["tokens"]["V*"]) == {"start", "relative_distance", "cosine_to_start", "cosine_to_class"}


def test_out_to_diffusers_and_back_is_the_same_file():
    written = said_by("export", "bear.safetensors", "--format", "diffusers", "--out", "out")
    assert written["tokens"] == {"V*": "<new1>"} and all(Path(path).is_file() for path in written["files"])
    assert said_by("import", "out", "--out", "back.safetensors")["names_in_files"] == {"V*": "<new1>"}
    assert Path("back.safetensors").read_bytes() == Path("bear.safetensors").read_bytes()


def test_what_others_wrote_is_shown_as_unknown(base_folder):
    call("export", "bear.safetensors", "--format", "diffusers", "--bin", "--out", "out")
    Path("out/cdvideo.json").unlink()
    result = call("import", "out", "--base", str(base_folder), "--class", "bear", "--out", "new/back.safetensors")
    assert result.exit_code == 0 and "steps: unknown" in result.output and "method: unknown" in result.output
    assert "seed: unknown" in call("show", "new/back.safetensors").output


def test_kohya_export_reports_its_error():
    written = said_by("export", "bear.safetensors", "--format", "kohya", "--rank", "4", "--out", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["bear-lora.safetensors", "bear-token.safetensors"]
    assert 0 < written["relative_error"] < 1 and len(written["layers"]) == 8 and written["tokens"] == {"V*": "bear-token"}


def test_compress_reports_sizes_and_show_tells_the_rank():
    report = said_by("compress", "bear.safetensors", "--rank", "2", "--out", "small.safetensors")
    assert report["bytes_before"] == Path("bear.safetensors").stat().st_size
    assert report["bytes_after"] == Path("small.safetensors").stat().st_size < report["bytes_before"]
    details = said_by("show", "small.safetensors")
    assert details["sizes"]["ranks"] == [2] and details["sizes"]["matrices"] == 8 and details["format_version"] == 2
    assert details["training"]["compressed"]["relative_error"] == report["relative_error"]
    assert call("export", "small.safetensors", "--format", "diffusers", "--out", "out").exit_code == 0


def test_merge_reports_and_renames():
    result = call("merge", "bear.safetensors", "cat.safetensors", "--out", "both.safetensors")
    assert result.exit_code == 0, result.output
    assert "bear.safetensors: V* is V1* now" in result.output and "cat.safetensors: V* is V2* now" in result.output
    assert "own_held_out" in result.output and "base_held_out" in result.output
    assert Concept.load(Path("both.safetensors")).header.tokens == ("V1*", "V2*")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "none.safetensors"], "no such concept: none.safetensors"),
        (["show", "text.txt"], "text.txt is not a safetensors file"),
        (["export", "none.safetensors", "--format", "kohya", "--out", "x"], "no such concept"),
        (["export", "bear.safetensors", "--format", "diffusers", "--out", "text.txt"], "text.txt cannot become a folder"),
        (["export", "bear.safetensors", "--format", "diffusers", "--rank", "3", "--out", "x"], "--rank is for --format kohya"),
        (["export", "bear.safetensors", "--format", "kohya", "--bin", "--out", "x"], "--bin is for --format diffusers"),
        (["export", "bear.safetensors", "--format", "kohya", "--base", "pocket", "--out", "x"], "does not fit the base"),
        (["import", "nowhere", "--out", "x.safetensors"], "there is nothing at nowhere"),
        (["import", "text.txt", "--out", "x.safetensors"], "text.txt is no checkpoint"),
        (["import", "bear.safetensors", "--out", "x.safetensors"], "it is a cdvideo concept"),
        (["import", ".", "--out", "x.ckpt"], "--out x.safetensors"),
        (["compress", "bear.safetensors", "--rank", "2", "--out", "."], "--out NAME.safetensors"),
        (["compress", "bear.safetensors", "--rank", "0", "--out", "x.safetensors"], "no rank 0"),
        (["compress", "bear.safetensors", "--rank", "2", "--out", "cat.safetensors"], "cat.safetensors exists already"),
        (["compress", "text.txt", "--rank", "2", "--out", "x.safetensors"], "text.txt is not a safetensors file"),
        (["merge", "bear.safetensors", "--out", "x.safetensors"], "nothing to merge"),
        (["merge", "bear.safetensors", "cat.safetensors", "--no-rename", "--out", "x.safetensors"], "use the token V*"),
        (["merge", "bear.safetensors", "cat.safetensors", "--out", "bear.safetensors"], "bear.safetensors exists already"),
        (["merge", "bear.safetensors", "text.txt", "--out", "x.safetensors"], "text.txt is not a safetensors file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_have_one_clear_message(arguments, said):
    Path("text.txt").write_text("hello, this is no tensor")
    before = {str(path): path.read_bytes() for path in Path().rglob("*")}
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.output and "Traceback" not in result.output
    assert "try:" in result.output or "why:" in result.output
    assert {str(path): path.read_bytes() for path in Path().rglob("*")} == before


def test_overwriting_is_asked_for():
    first = call("compress", "bear.safetensors", "--rank", "2", "--out", "bear.safetensors", "--overwrite")
    assert first.exit_code == 0 and Concept.load(Path("bear.safetensors")).is_compressed


@pytest.mark.parametrize("verb", ["show", "export", "import", "compress", "merge"])
def test_examples_parse(verb):
    page = concept_command.commands[verb]
    lines = re.findall(r"^\s+cdvideo concept (.+)$", page.help, re.MULTILINE)
    assert lines
    for line in lines:
        name, *arguments = shlex.split(line)
        assert name == verb
        page.make_context(name, arguments, parent=click.Context(main))
