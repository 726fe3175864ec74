import subprocess
import sys

_MODULES = ("transitions", "cards", "subtitles", "page")


def test_what_joins_shots_into_a_film_needs_no_torch():
    imports = "; ".join(f"import cdvideo.storyboard.{name}" for name in _MODULES)
    heavy = "{'torch', 'diffusers', 'transformers', 'PIL', 'av'} & set(sys.modules)"
    command = [sys.executable, "-c", f"import sys; {imports}; assert not {heavy}, {heavy}"]
    assert subprocess.run(command).returncode == 0
