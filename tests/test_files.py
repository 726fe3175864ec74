"""Files written whole: what killed processes leave behind goes."""

import os
import time

from cdvideo.files import replace_files


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path):
    old, young = tmp_path / ".cdvideo-0011.partial", tmp_path / ".cdvideo-2233.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    two_hours_ago = time.time() - 7200
    os.utime(old, (two_hours_ago, two_hours_ago))
    replace_files(tmp_path / "a", [(tmp_path / "a", b"whole"), (tmp_path / "b", b"too")])
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "a", "b"]
