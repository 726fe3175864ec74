"""Passes that are recorded, as CUDA graphs or operators: replays are the same bits, and where nothing can be recorded nothing is lost."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from cdvideo import base
from cdvideo.animate import Studio
from cdvideo.animate.passes import UNetPasses
from cdvideo.base import recorded as recorded_module
from cdvideo.base.recorded import Recordings
from cdvideo.errors import UserNote
from tests.animate.test_text_states import concept_of

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs are recorded on a CUDA device")


def scaled(model, states, factor):
    return model(states) * factor


@pytest.fixture
def at_once(monkeypatch):
    """Lets a CPU record what it computes for the second time."""
    monkeypatch.setitem(recorded_module.COMPUTED_BEFORE, "cpu", 1)


def counting(calls):
    def count(model, states, factor):
        calls.append(tuple(states.shape))
        return scaled(model, states, factor)

    return count


def test_on_a_cpu_operators_are_replayed_for_inputs_of_the_same_form(at_once):
    calls, model, two = [], nn.Linear(8, 8).requires_grad_(False), torch.tensor(2.0)
    recorded = Recordings(torch.device("cpu")).of(counting(calls), model)
    inputs = [torch.randn(n, 8) for n in (4, 4, 2, 2, 4, 2, 4)] + [torch.randn(8, 4).t() for _ in range(3)]
    found = [recorded(states, two) for states in inputs]
    assert calls == [(4, 8), (4, 8), (2, 8), (2, 8), (4, 8), (4, 8)], "of each form two, which the last three have for themselves"
    for states, result in zip(inputs, found, strict=True):
        assert torch.equal(result, model(states) * 2)
    model.weight.zero_()
    assert torch.equal(recorded(inputs[0], two), model.bias.expand(4, 8) * 2), "weights are read where they are"
    recorded.recordings.forget()
    assert torch.equal(recorded(inputs[0], two), model.bias.expand(4, 8) * 2) and len(calls) == 7


def test_a_few_passes_are_not_worth_a_recording():
    calls = []
    recorded = Recordings(torch.device("cpu")).of(counting(calls), nn.Identity())
    for _ in range(60):
        recorded(torch.ones(2), torch.tensor(2.0))
    assert 25 < len(calls) < 60


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_on_a_cpu_clips_of_one_studio_share_recordings_and_are_the_same_bits(at_once, monkeypatch, pocket_motion, dtype, recwarn):
    loaded = base.load("pocket", device="cpu", dtype=dtype)
    recwarn.clear()  # Where a processor does not compute in bf16, loading says so.
    settings = dict(num_frames=2, size=(64, 64), num_inference_steps=3, seed=3)
    with Studio(loaded, [], pocket_motion) as studio:
        asked = [
            dict(prompt="a bear in the snow"),
            dict(prompt="a fox on the beach"),
            dict(prompt="a fox on the beach", cameras=studio.camera_moves("zoom-in")),
            dict(prompt="a fox on the beach", cameras=studio.camera_moves(["zoom-in:0.5", "pan-left"])),
            dict(prompts={0: "a bear in the snow", 1: "a fox on the beach"}),
            dict(prompt="a bear in the snow", negative="grey"),
        ]
        found = [studio.clip(**one, **settings).frames for one in asked]
        assert studio._passes[studio._motion_unet].noise._replays
    monkeypatch.setitem(recorded_module.COMPUTED_BEFORE, "cpu", 1000)
    for one, frames in zip(asked, found, strict=True):
        with Studio(loaded, [], pocket_motion) as studio:
            assert np.array_equal(studio.clip(**one, **settings).frames, frames)
    assert not [one for one in recwarn if isinstance(one.message, UserNote)], "something was not recorded"


def test_on_a_cpu_a_concept_whose_strength_changes_is_read_anew(at_once, monkeypatch, pocket, pocket_motion):
    """At a changing strength the concept's matrices are out of the base, and afterwards in it again."""
    concept, settings = concept_of(pocket, "V*", "bear", 0), dict(size=(64, 64), num_inference_steps=3, seed=3)
    places = ["in the snow", "on the beach", "in space"]
    asked = [(place, course) for course in ({}, {0: 1.0, 1: 0.0}, {}) for place in places]

    def pictures(studio, place, course):
        clip = studio.clip(f"a V* bear {place}", num_frames=2, concept_strengths=course, **settings)
        return np.concatenate([clip.frames, studio.still(f"a V* bear {place}", **settings).frames])

    with Studio(pocket, [concept], pocket_motion) as studio:
        found = [pictures(studio, *one) for one in asked]
        assert len(studio._passes) == 2 and all(passes.noise._replays for passes in studio._passes.values())
    monkeypatch.setitem(recorded_module.COMPUTED_BEFORE, "cpu", 1000)
    for one, frames in zip(asked, found, strict=True):
        with Studio(pocket, [concept], pocket_motion) as studio:
            assert np.array_equal(pictures(studio, *one), frames)


def test_on_a_cpu_nothing_that_is_recorded_was_made_of_weights_alone(at_once, pocket, pocket_motion):
    """It would stay as it was when a camera move or a concept changes them."""
    settings = dict(size=(64, 64), num_inference_steps=3, seed=3)
    with Studio(pocket, [], pocket_motion) as studio:
        studio.clip("a bear", num_frames=2, **settings)
        studio.still("a bear", **settings)
        for unet, passes in studio._passes.items():
            read = [*unet.parameters(), *unet.buffers(), *passes._sources.values()]
            own = {value.untyped_storage().data_ptr() for value in read}
            (replay,) = passes.noise._replays.values()
            module = replay.args[0]._module
            constants = [getattr(module, name) for name in dir(module) if name.startswith("constant_")]
            assert len(constants) > 100
            # Frequencies of time steps, and what a product that adds nothing is added to.
            assert all(value.untyped_storage().data_ptr() in own or value.numel() in (1, 32) for value in constants)


def test_on_a_cpu_clips_in_other_modes_leave_a_studio_usable(at_once, pocket, pocket_motion):
    settings = dict(num_frames=2, size=(64, 64), num_inference_steps=3, seed=3)
    with Studio(pocket, [], pocket_motion) as studio:
        plain = studio.clip("a bear in the snow", **settings).frames
        with torch.autocast("cpu", torch.bfloat16):
            studio.clip("a fox on the beach", **settings)
        with torch.inference_mode():
            studio.clip("a fox in the snow", **settings)
        assert np.array_equal(studio.clip("a bear in the snow", **settings).frames, plain)


def test_on_a_cpu_what_cannot_be_recorded_is_said_and_computed_as_ever(at_once):
    def waits(unet, states):
        return states * float(states.sum())

    recorded, states = Recordings(torch.device("cpu")).of(waits, nn.Identity()), torch.ones(3)
    with pytest.warns(UserNote, match="cannot be recorded, so that they take longer: .* looks at values") as said:
        found = [recorded(states) for _ in range(5)]
    assert len(said) == 1 and all(torch.equal(one, states * 3) for one in found)


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
    assert len(recorded._replays) == 2
    for states, result in zip(inputs, found, strict=True):
        assert torch.equal(result, model(states) * 2)
    recorded.recordings.forget()
    for _ in range(3):
        assert torch.equal(recorded(inputs[0], two + 1), model(inputs[0]) * 3)
    assert recorded._replays, "after all is let go of, it is recorded anew"


@on_gpu
def test_clips_of_one_studio_share_recordings_and_differ_in_nothing_else(pocket, pocket_motion):
    on_gpu = base.load("pocket", device="cuda", dtype="fp32")
    settings = dict(num_frames=4, size=(64, 64), num_inference_steps=4, seed=3)
    prompts = ["a bear in the snow", "a fox on the beach", "a bear in the snow"]
    with Studio(on_gpu, [], pocket_motion) as studio:
        found = [studio.clip(prompt, **settings).frames for prompt in prompts]
        assert studio._passes[studio._motion_unet].noise._replays and studio._decode._replays
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
