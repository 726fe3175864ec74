"""What `cdvideo --help` costs, and that every help page holds an example that parses."""

import re
import shlex
import subprocess
import sys

import click
import pytest

from cdvideo.cli import VERBS, main

ALLOWED = {"cdvideo", "cdvideo.cli", "cdvideo.errors"}


def test_help_imports_next_to_nothing():
    code = (
        "import sys; before = set(sys.modules)\n"
        "from cdvideo.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('MODULES', *sorted(name for name in set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = done.stdout.split("MODULES", 1)[1].split()
    assert {name for name in imported if name.split(".")[0] == "cdvideo"} <= ALLOWED
    heavy = {"torch", "numpy", "diffusers", "transformers", "pydantic", "yaml", "av", "PIL", "tqdm", "safetensors"}
    assert not heavy & {name.split(".")[0] for name in imported}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_imports_neither_torch_nor_numpy_for_its_help(verb):
    code = (
        "import sys\nfrom cdvideo.cli import main\n"
        f"try: main([{verb!r}, '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'diffusers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def examples() -> list[str]:
    found = []
    context = click.Context(main)
    pages = {verb: main.get_command(context, verb) for verb in VERBS}
    pages |= {f"storyboard {name}": page for name, page in pages.pop("storyboard").commands.items()}
    for verb, page in pages.items():
        lines = re.findall(r"^\s+(cdvideo .+)$", page.help or "", re.MULTILINE)
        assert lines, f"{verb} has no example"
        found += lines
    return found


@pytest.mark.parametrize("line", examples())
def test_examples_parse(line):
    arguments = shlex.split(line)[1:]
    command, context = main, click.Context(main, info_name="cdvideo")
    while isinstance(command, click.Group) and (arguments or not command.invoke_without_command):
        name, command, arguments = command.resolve_command(context, arguments)
        assert command is not None, name
    command.make_context(command.name, arguments, parent=context)
