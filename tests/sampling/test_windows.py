"""Windows over long clips: which frames they hold, how they are blended, and that one window changes nothing."""

from itertools import pairwise

import pytest
import torch

from cdvideo.base.shared_halves import for_each_half
from cdvideo.sampling import denoise, make_scheduler, seeded_noise
from cdvideo.sampling.windows import join_weights, long_noise, window_frames, window_weights, windowed


@pytest.mark.parametrize("num_frames", [1, 7, 16, 17, 20, 28, 29, 64, 97, 512])
@pytest.mark.parametrize("loop", [False, True])
def test_every_frame_is_in_a_window_and_neighbours_share_some(num_frames, loop):
    if loop and num_frames < 8:
        pytest.skip("a loop of a few frames is refused before")
    windows = window_frames(num_frames, loop=loop)
    assert {frame for frames in windows for frame in frames} == set(range(num_frames))
    assert len({len(frames) for frames in windows}) == 1 and len(windows[0]) <= 16
    windows = [frames[::-1] if num_frames > 16 and number % 2 else frames for number, frames in enumerate(windows)]
    pairs = {(a, b) for frames in windows for a, b in pairwise(frames)}
    wanted = {(frame, (frame + 1) % num_frames) for frame in range(num_frames if loop else num_frames - 1)}
    assert wanted <= pairs, "two frames that follow each other are seen together"
    neighbours = [*pairwise(windows), (windows[-1], windows[0])] if loop and num_frames > 16 else pairwise(windows)
    assert all(len(set(a) & set(b)) >= 4 for a, b in neighbours)


def test_a_short_loop_has_a_second_window_around_its_join():
    assert window_frames(16, loop=True) == [list(range(16)), [*range(8, 16), *range(8)]]


def test_a_short_loop_is_blended_around_its_join_by_hand():
    """Windows that say 1 and 2; half a frame from the join the second counts 1 - 0.5/6, and from six frames on nothing."""
    answers = iter([1.0, 2.0])
    noise = windowed(lambda latents, timestep, states: torch.full_like(latents, next(answers)), loop=True)(
        torch.zeros(1, 4, 16, 2, 2), torch.tensor(1), torch.zeros(1, 2, 3)
    )
    seconds = [11 / 12, 9 / 12, 7 / 12, 5 / 12, 3 / 12, 1 / 12, 0, 0]
    assert (noise[0, 0, :, 0, 0] - 1).tolist() == pytest.approx([*seconds, *seconds[::-1]], abs=1e-6)


def test_the_second_window_of_a_very_short_loop_fades_out_towards_its_own_ends():
    assert join_weights(8).tolist() == pytest.approx([7 / 8, 5 / 8, 3 / 8, 1 / 8, 1 / 8, 3 / 8, 5 / 8, 7 / 8])


@pytest.mark.parametrize("num_frames", [16, 40])
def test_windows_are_the_same_at_every_step(num_frames):
    seen = []
    predict = windowed(lambda latents, timestep, states: seen.append(latents[0, 0, :, 0, 0].tolist()) or latents, loop=True)
    latents = torch.arange(num_frames, dtype=torch.float32).view(1, 1, -1, 1, 1)
    predict(latents, torch.tensor(1), torch.zeros(1, 2, 3))
    first = list(seen)
    predict(latents, torch.tensor(1), torch.zeros(1, 2, 3))
    assert seen == first + first


def test_weights_by_hand():
    assert torch.allclose(window_weights(16, 4), torch.tensor([0.2, 0.4, 0.6, 0.8, *[1.0] * 8, 0.8, 0.6, 0.4, 0.2]))


def test_every_second_window_leads_back_by_hand():
    """28 frames are two windows of 16; the second is seen from the last frame to the first, so that both meet at their ends."""
    assert window_frames(28) == [list(range(16)), list(range(27, 11, -1))]
    assert window_frames(17) == [list(range(11)), list(range(16, 5, -1))], "two windows of one size, no second one that nearly is the first"
    assert window_frames(20, loop=True) == [list(range(14)), [3, 2, 1, 0, *range(19, 9, -1)]]


def test_what_is_meant_in_its_order_is_seen_in_it():
    assert window_frames(28, turns=False) == [list(range(16)), list(range(12, 28))]


@pytest.mark.parametrize("window", [2, 4, 7, 8, 24])
@pytest.mark.parametrize("loop", [False, True])
def test_modules_that_see_other_numbers_of_frames_have_their_own_windows(window, loop):
    windows = window_frames(50, window=window, loop=loop)
    assert {frame for frames in windows for frame in frames} == set(range(50)) and max(map(len, windows)) <= window


@pytest.mark.parametrize("num_frames", [17, 25, 40, 52, 63, 100])
def test_a_loop_turns_an_even_number_of_times(num_frames):
    assert len(window_frames(num_frames, loop=True)) % 2 == 0


def test_a_motion_that_leads_somewhere_leads_back_without_a_jump():
    """Where a frame is shown, as its windows say by its place in them, blended: it moves on by less than two frames' way, there and back.

    Windows that all began anew would jump by eleven.
    """

    def places(latents, timestep, states):
        return torch.arange(latents.shape[2], dtype=torch.float32).view(1, 1, -1, 1, 1)

    for num_frames, loop in ((64, False), (41, False), (64, True), (30, True)):
        noise = windowed(places, loop=loop)(torch.zeros(1, 1, num_frames, 1, 1), torch.tensor(1), torch.zeros(1, 2, 3))
        shown = noise.flatten()
        steps = torch.diff(shown, append=shown[:1]) if loop else torch.diff(shown)
        assert steps.abs().max() < 1.7 and shown.max() > 8 and (steps < 0).any()


def test_overlaps_are_blended_by_hand():
    """Windows of frames 0-15 and 27-12 that say 1 and 2: frame 0 is 1, frame 27 is 2, frame 12 is (0.8 * 1 + 0.2 * 2) / 1."""
    answers = iter([1.0, 2.0])

    def predict(latents, timestep, states):
        return torch.full_like(latents, next(answers))

    noise = windowed(predict)(torch.zeros(1, 4, 28, 2, 2), torch.tensor(1), torch.zeros(1, 2, 3))
    assert noise[0, 0, [0, 27, 12], 0, 0].tolist() == pytest.approx([1, 2, 1.2])


def test_a_clip_of_one_window_is_the_plain_one():
    def predict(latents, timestep, states):
        return for_each_half(latents * 0.1 + latents.mean(2, keepdim=True), len(states))

    noise, text = seeded_noise(0, (1, 4, 16, 4, 4)), torch.zeros(1, 2, 3)
    settings = {"text": text, "negative": text, "guidance_scale": 7.5}
    plain = denoise(predict, make_scheduler("animatediff", 4), noise, **settings)
    assert torch.equal(denoise(windowed(predict), make_scheduler("animatediff", 4), noise, **settings), plain)


def test_long_noise_begins_with_the_windows_own_and_gives_it_again_shuffled():
    noise = seeded_noise(0, (1, 1, 16, 1, 1))
    windows = window_frames(40)
    long, own = long_noise(noise, windows, torch.Generator().manual_seed(1)).flatten(), noise.flatten()
    assert len(windows) == 3 and torch.equal(long[:16], own)
    assert sorted(long[24:28].tolist()) == sorted(own[:4].tolist()), "the second window, whose first frame is frame 27, sees them first"
    assert sorted(long[36:40].tolist()) == sorted(own[12:16].tolist())
    assert not torch.equal(long[16:28], own[:12].flip(0))
    assert torch.equal(long, long_noise(noise, windows, torch.Generator().manual_seed(1)).flatten())
