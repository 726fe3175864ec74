"""Films rendered on a real Ray cluster, begun on this machine for these tests."""

import os
import signal
import sys
from contextlib import closing

import numpy as np
import pytest
from click.testing import CliRunner

from cdvideo.cli import main
from cdvideo.errors import UserError
from cdvideo.storyboard import render
from cdvideo.storyboard.cluster import Pass, RayExecutor, RayHand, _check_reachable
from cdvideo.storyboard.film import rendering_of
from tests.storyboard.test_film import THREE, Counter, film_of, frames_of, plan_of


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    # The films' own executors find this one's cluster, and join it.
    with closing(RayExecutor()) as executor:
        executor.join()
        yield ray
    assert not ray.is_initialized()


def on_ray(folder, out, **settings):
    file = folder / "film.yaml"
    return render(plan_of(file), file, folder / out, formats=("mp4",), device="cpu", workers=2, executor=RayExecutor(), **settings)


def test_a_film_is_the_same_and_a_worker_that_is_killed_is_replaced(ray, tmp_path, monkeypatch):
    alone, _ = film_of(tmp_path, THREE.replace("on the beach", "on the beach\n    steps: 30"))
    processes, at, killed = {}, {}, []
    hire, begin = RayExecutor.hire, RayHand.begin

    def hired(self, rendering, slot):
        hand = hire(self, rendering, slot)
        processes[hand] = hand.actor.process.remote()
        return hand

    def begun(self, chain):
        at[chain[0].number] = self
        begin(self, chain)

    class Killer(Counter):
        def __call__(self, shot, take, done):
            super().__call__(shot, take, done)
            return lambda step, steps: self.kill(shot.number)

        def kill(self, number):
            if number == 1 and not killed:
                killed.append(ray.get(processes[at[1]]))
                os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(RayExecutor, "hire", hired)
    monkeypatch.setattr(RayHand, "begin", begun)
    killer = Killer()
    film = on_ray(tmp_path, "shared", on_take=killer)
    assert killed and killed[0] != os.getpid() and len(processes) == 3, "two workers, and one in the place of the dead"
    assert sorted(killer.takes) == [(1, 1, False), (1, 1, False), (2, 1, False), (3, 1, False), (4, 1, False)], "its shot alone is retried"
    assert all(np.array_equal(one, other) for one, other in zip(frames_of(alone), frames_of(film), strict=True))
    assert not film.missing and not list((tmp_path / "shared/shots").glob(".cdvideo-*")), "the nodes' pass has expired"
    assert on_ray(tmp_path, "shared").num_rendered == 0 and len(processes) == 3, "a film that lies there hires nobody"


def test_a_node_that_does_not_see_the_folders_is_refused(ray, tmp_path):
    (tmp_path / "film.yaml").write_text(THREE)
    rendering = rendering_of(plan_of(tmp_path / "film.yaml"), tmp_path / "film")
    entry = Pass(rendering.folder)
    entry.check(rendering)
    entry.file.write_text("another folder's")
    with pytest.raises(UserError, match="does not see") as refused:
        entry.check(rendering)
    assert str(rendering.folder) in str(refused.value) and "at the same paths" in str(refused.value)
    entry.expire()
    with pytest.raises(UserError, match="does not see"):
        entry.check(rendering)
    other = Pass(rendering.folder)
    other.versions = {**other.versions, "torch": "1.0"}
    with pytest.raises(UserError, match="other pixels"):
        other.check(rendering)
    other.expire()


def test_what_a_worker_cannot_do_is_said_here(ray, tmp_path):
    (tmp_path / "film.yaml").write_text(THREE + "base: /no/such/base\n")
    with pytest.raises(UserError, match="there is no base at /no/such/base"):
        on_ray(tmp_path, "film")


@pytest.mark.parametrize("address", ["nonsense", "ray://somewhere:1", "127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused_at_once(address):
    with pytest.raises(UserError, match=f"cluster at {address}|{address} is no address"):
        _check_reachable(address)


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "film.yaml").write_text(THREE)
    result = CliRunner().invoke(main, ["storyboard", "render", str(tmp_path / "film.yaml"), "--executor", "ray"])
    assert result.exit_code == 2 and "cdvideo[ray]" in result.output and "Traceback" not in result.output
    misplaced = CliRunner().invoke(main, ["storyboard", "render", str(tmp_path / "film.yaml"), "--ray-address", "auto"])
    assert misplaced.exit_code == 2 and "--executor ray" in misplaced.output
