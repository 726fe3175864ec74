"""When memory runs out: the same pictures in slower ways, said aloud, and an error where no way is left."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cdvideo.animate import Studio, passes
from cdvideo.animate.passes import UNetPasses
from cdvideo.animate.sparing import SparingPredictor
from cdvideo.base.recorded import Recordings
from cdvideo.errors import UserError, UserNote

CPU = torch.device("cpu")
FEW = dict(num_frames=4, size=(64, 64), num_inference_steps=4, guidance_scale=7.5, seed=3)


@pytest.fixture
def one_row_at_a_time(monkeypatch):
    """A device whose memory holds one clip or picture at a time."""
    whole = passes.noise_of

    def small(unet, latents, timestep, states):
        noise = whole(unet, latents, timestep, states)
        if len(states) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return noise

    return lambda: monkeypatch.setattr(passes, "noise_of", small)


@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_halves_in_turn_make_the_same_clip(pocket, pocket_motion, one_row_at_a_time, speed):
    with Studio(pocket, [], pocket_motion) as studio:
        wanted = studio.clip("a bear in the snow", speed=speed, **FEW)
    one_row_at_a_time()
    with Studio(pocket, [], pocket_motion) as studio, pytest.warns(UserNote, match="halves are computed in turn") as said:
        got = studio.clip("a bear in the snow", speed=speed, **FEW)
    assert sum("in turn" in str(note.message) for note in said) == 1
    assert np.abs(got.frames.astype(int) - wanted.frames).max() <= 1


def test_pictures_are_decoded_one_by_one(pocket, monkeypatch):
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted, whole = pocket.decode(latents), pocket.decode_some

    def small(part):
        if len(part) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(part)

    monkeypatch.setattr(pocket, "decode_some", small)
    with pytest.warns(UserNote, match="one by one"):
        got = pocket.decode(latents)
    assert got.shape == wanted.shape and (got.int() - wanted.int()).abs().max() <= 1


def test_recordings_are_let_go_of_before_pictures_are_decoded_one_by_one(pocket, monkeypatch, recwarn):
    latents, recordings = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), Recordings(pocket.device)
    calls = []

    def decode(base, part):
        calls.append(len(part))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return base.decode_some(part)

    monkeypatch.setattr(recordings, "forget", lambda: calls.append("forgotten"))
    got = torch.cat(list(pocket.decoded(latents, recordings.of(decode, pocket))))
    assert calls == [2, 2, "forgotten"] and torch.equal(got, pocket.decode(latents)) and not recwarn.list


def test_parts_that_are_not_needed_wait_on_the_cpu_and_come_back(pocket, monkeypatch):
    vae, text_encoder, unet = (nn.Linear(1, 1, device="meta").requires_grad_(False) for _ in range(3))
    base = SimpleNamespace(device=torch.device("meta"), vae=vae, text_encoder=text_encoder, unet=unet)
    moved = []
    base.vae.to = base.text_encoder.to = moved.append
    failures = iter([True, False])

    def predict(unet, latents, timestep, states):
        if next(failures):
            raise torch.OutOfMemoryError("out of memory")
        return latents

    monkeypatch.setattr(passes, "noise_of", predict)
    with (
        SparingPredictor(base, UNetPasses(pocket.unet, Recordings(CPU))) as sparing,
        pytest.warns(UserNote, match="wait on the CPU"),
    ):
        sparing(torch.zeros(1, 4, 8, 8), torch.tensor(1), torch.zeros(1, 1, 1))
        assert moved == [torch.device("cpu")] * 2
    assert moved[2:] == [torch.device("meta")] * 2


def test_where_nothing_is_left_to_spare_the_error_says_what_to_do(pocket, monkeypatch):
    def predict(unet, latents, timestep, states):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(passes, "noise_of", predict)
    with (
        SparingPredictor(pocket, UNetPasses(pocket.unet, Recordings(CPU))) as sparing,
        pytest.warns(UserNote),
        pytest.raises(UserError) as caught,
    ):
        sparing(torch.zeros(2, 4, 16, 8, 12), torch.tensor(1), torch.zeros(2, 1, 1))
    assert "96x64 pixels and 16 frames" in str(caught.value) and "--size" in caught.value.remedy
