"""What rendering a film would do, take by take, and what that would take of memory and time. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdvideo.animate.preflight import Memory, Pace, memory_of, pace_of
from cdvideo.animate.reuse import speed_of
from cdvideo.storyboard.planning import PlannedShot
from cdvideo.storyboard.shots import Stage
from cdvideo.storyboard.takes import Shelf, Take, is_finished
from cdvideo.storyboard.workers import Chain, Executor, Rendering, chains, film_threads, num_workers


@dataclass(frozen=True, kw_only=True)
class ForecastShot:
    """`rendered` and `to_render` are numbers of takes; those of a shot that is not wanted and does not lie there are in neither."""

    shot: PlannedShot
    size: tuple[int, int]
    num_steps: int
    rendered: Sequence[int]
    to_render: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """`memory` is of each worker; `pace` and `memory` are by the shot of this number, measured on this device."""

    shot: int
    device: str
    memory: Memory
    pace: Pace


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Nothing is measured where nothing is to be rendered. `workers` are those that there would be."""

    shots: Sequence[ForecastShot]
    workers: int
    measured: Measured | None

    def seconds_of(self, one: ForecastShot) -> float:
        """Of one worker for a shot's takes that are to be rendered."""
        if self.measured is None:
            return 0.0
        return len(one.to_render) * self.measured.pace.seconds(num_frames=one.shot.num_frames, num_steps=one.num_steps)

    @property
    def seconds(self) -> float:
        """Of all workers together, which are as long as their share takes, or the longest row of shots that continue from one another."""
        seconds = {one.shot.number: self.seconds_of(one) for one in self.shots}
        rows = [sum(seconds[shot.number] for shot in chain) for chain in chains([one.shot for one in self.shots])]
        return max(sum(rows) / max(self.workers, 1), *rows)


def forecast(rendering: Rendering, executor: Executor, workers: int | None = None) -> Forecast:
    """What `render_shots` would do. Models are loaded only where something is to be rendered, or nothing is known of what lies there.

    Raises UserError where they cannot be loaded.
    """
    shelf, stage = rendering.shelf(), None
    if shelf is None:
        stage = _open(rendering)
        shelf = stage.shelf
    shelf.takes_notes = False
    links = chains(rendering.plan.shots)
    rows = [_foreseen(shelf, chain, rendering) for chain in links]
    shots = [shot for row in rows for shot in row]
    open_shots = [shot for shot in shots if shot.to_render]
    if not open_shots:
        return Forecast(shots=shots, workers=0, measured=None)
    waiting = [chain for chain, row in zip(links, rows, strict=True) if any(shot.to_render for shot in row)]
    wanted = num_workers(rendering, waiting, executor, workers)
    with stage or _open(rendering) as opened:
        return Forecast(shots=shots, workers=wanted, measured=_measured(opened, open_shots, rendering.num_threads))


def _open(rendering: Rendering) -> Stage:
    return Stage(rendering.plan, rendering.folder, device=rendering.device, dtype=rendering.dtype, speed=rendering.speed)


def _foreseen(shelf: Shelf, chain: Chain, rendering: Rendering) -> list[ForecastShot]:
    row = []
    before: Take | None = None
    preset = shelf.makings.preset
    for shot in chain:
        settings = shelf.settings(shot)
        takes = range(1, shot.takes + 1)
        known = not shot.continues or before is not None
        folders = shelf.folders(shot, before) if known else []
        rendered = [take for take, folder in zip(takes, folders, strict=False) if is_finished(folder, shot)]
        before = shelf.judged(shot, folders).kept if len(rendered) == shot.takes else None
        row.append(
            ForecastShot(
                shot=shot,
                size=settings["size"],
                num_steps=settings["num_inference_steps"] or speed_of(rendering.speed).steps_of(preset),
                rendered=rendered,
                to_render=[take for take in takes if take not in rendered] if shot.number in rendering.wanted else [],
            )
        )
    return row


def _measured(stage: Stage, shots: list[ForecastShot], num_threads: int) -> Measured:
    """The pace of the first of these shots, and the memory of the longest, since all are of one size."""
    first = shots[0]
    studio = stage.studio_for(first.shot)
    with film_threads(stage, num_threads):
        memory = memory_of(studio, num_frames=max(one.shot.num_frames for one in shots), size=first.size)
        pace = pace_of(studio, num_frames=first.shot.num_frames, settings=stage.shelf.settings(first.shot))
    return Measured(shot=first.shot.number, device=str(stage.base.device), memory=memory, pace=pace)
