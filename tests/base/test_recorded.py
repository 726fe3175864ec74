"""Passes that are recorded as CUDA graphs: replays are the same bits, and where nothing can be recorded nothing is lost."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from cdvideo import base
from cdvideo.animate import Studio
from cdvideo.animate.passes import UNetPasses
from cdvideo.base.recorded import Recordings
from cdvideo.errors import UserNote

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are recorded on a CUDA device")


def scaled(model, states, factor):
    return model(states) * factor


def test_elsewhere_it_computes_at_every_call():
    calls = []

    def count(unet, states):
        calls.append(len(states))
        return unet(states)

    recorded = Recordings(torch.device("cpu")).of(count, nn.Identity())
    for _ in range(3):
        assert torch.equal(recorded(torch.ones(2)), torch.ones(2))
    assert calls == [2, 2, 2]


def test_a_closed_studio_holds_no_unet(pocket, pocket_motion):
    studio = Studio(pocket, [], pocket_motion)
    studio.clip("a bear", num_frames=2, size=(64, 64), num_inference_steps=1)
    motion_unet = weakref.ref(studio._motion_unet)
    studio.close()
    gc.collect()
    assert motion_unet() is None


@on_gpu
def test_replays_take_the_inputs_of_now_and_leave_earlier_results_alone():
    model = nn.Linear(8, 8, device="cuda").requires_grad_(False)
    recorded, two = Recordings(torch.device("cuda")).of(scaled, model), torch.tensor(2.0, device="cuda")
    # Both shapes are recorded, in memory that they share.
    inputs = [torch.randn(n, 8, device="cuda") for n in (4, 4, 2, 2, 4, 2, 4)]
    found = [recorded(states, two) for states in inputs]
    assert len(recorded._graphs) == 2
    for states, result in zip(inputs, found, strict=True):
        assert torch.equal(result, model(states) * 2)
    recorded.recordings.forget()
    for _ in range(3):
        assert torch.equal(recorded(inputs[0], two + 1), model(inputs[0]) * 3)
    assert recorded._graphs, "after all is let go of, it is recorded anew"


@on_gpu
def test_clips_of_one_studio_share_recordings_and_differ_in_nothing_else(pocket, pocket_motion):
    on_gpu = base.load("pocket", device="cuda", dtype="fp32")
    settings = dict(num_frames=4, size=(64, 64), num_inference_steps=4, seed=3)
    prompts = ["a bear in the snow", "a fox on the beach", "a bear in the snow"]
    with Studio(on_gpu, [], pocket_motion) as studio:
        found = [studio.clip(prompt, **settings).frames for prompt in prompts]
        assert studio._passes[studio._motion_unet].noise._graphs and studio._decode._graphs
    for prompt, frames in zip(prompts, found, strict=True):
        with Studio(on_gpu, [], pocket_motion) as studio:
            studio._passes[studio._motion_unet] = UNetPasses(studio._motion_unet, Recordings(torch.device("cuda")))
            studio._passes[studio._motion_unet].noise._records = studio._decode._records = False
            assert np.abs(studio.clip(prompt, **settings).frames.astype(int) - frames).max() <= 1


@on_gpu
def test_what_cannot_be_recorded_is_said_and_computed_as_ever():
    def waits(unet, states):
        return states * float(states.sum())

    recorded, states = Recordings(torch.device("cuda")).of(waits, nn.Identity()), torch.ones(3, device="cuda")
    with pytest.warns(UserNote, match="cannot be recorded as CUDA graphs") as said:
        found = [recorded(states) for _ in range(5)]
    assert len(said) == 1 and all(torch.equal(one, states * 3) for one in found)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
