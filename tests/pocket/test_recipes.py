"""The recipes' parts: noise as the schedulers define it, an autoencoder that starts as the identity, trainings that resume."""

import copy
import math

import numpy as np
import pytest
import torch
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from PIL import Image
from safetensors.torch import load_file

from cdvideo.pocket.recipes import autoencoder, clip
from cdvideo.pocket.recipes.diffusion import Noising, cumulative_alphas, where_motion_is, where_shapes_are
from cdvideo.pocket.recipes.latents import Latents
from cdvideo.pocket.recipes.optimisers import Muon, Optimisers, orthogonalised
from cdvideo.pocket.recipes.pictures import draw_curve, grid
from cdvideo.pocket.recipes.processes import on_every_core
from cdvideo.pocket.recipes.run import Average, Run, begin_with, constant_then_decay
from cdvideo.pocket.world.painter import Painter
from cdvideo.pocket.world.scene import Scene
from cdvideo.sampling import make_scheduler
from tests.pocket.test_world import FlatIcons


@pytest.mark.parametrize(("row", "schedule"), [(0, "stable-diffusion"), (1, "animatediff")])
def test_noise_schedules_are_the_samplers_own(row, schedule):
    assert torch.allclose(cumulative_alphas()[row], make_scheduler(schedule, 10).alphas_cumprod, atol=1e-5)


def test_noisy_latents_hold_the_noise_that_is_asked_for():
    noising, generator = Noising(torch.device("cpu"), where_shapes_are()), torch.Generator().manual_seed(0)
    clean = torch.randn(64, 4, 16, 16, generator=generator)
    noisy, noise, timesteps = noising(clean, generator, schedule=1)
    alphas = cumulative_alphas()[1, timesteps].view(-1, 1, 1, 1)
    assert torch.allclose((noisy - (1 - alphas).sqrt() * noise) / alphas.sqrt(), clean, atol=1e-3)


def test_timesteps_are_drawn_where_shapes_are_decided():
    density = where_shapes_are(uniform=0.0)
    alphas = cumulative_alphas()[0, [50, 500]]
    snr = alphas / (1 - alphas)
    # At step 50 the signal is far above gamma, at 500 below: min-SNR weights 5 / SNR and 1, each times SNR / (SNR + floor).
    ratio = (5 / snr[0] * snr[0] / (snr[0] + 0.1)) / (snr[1] / (snr[1] + 0.1))
    assert snr[0] > 5 > snr[1]
    assert torch.isclose(density[0, 50] / density[0, 500], ratio)
    assert torch.allclose(density.sum(1), torch.ones(2))
    assert (density.argmax(1) > 100).all() and (density.argmax(1) < 400).all()


def test_a_clips_timesteps_are_drawn_evenly_by_their_noise():
    density, alphas = where_motion_is(), cumulative_alphas()
    assert torch.allclose(density.sum(1), torch.ones(2))
    snr = alphas / (1 - alphas)
    assert (density[snr >= 10] == 0).all() and (density >= 0).all()
    for low, high in ((0.01, 0.04), (0.05, 0.2), (0.2, 0.8)):
        share = density[1][(snr[1] > low) & (snr[1] < high)].sum()
        assert math.isclose(share, math.log(4) / math.log(10 / snr[1, -1]), rel_tol=0.03), "each a factor of four"


def test_two_processes_train_the_motion_module_and_teach_the_base(tmp_path):
    from cdvideo.pocket.recipes import motion, unet

    torch.manual_seed(0)
    base = unet.build()
    with torch.no_grad():
        for value in base.parameters():
            value.add_(0.02 * torch.randn_like(value))
    Run.open(tmp_path / "unet").save(average=Average(base, unet.DECAY))
    generator = torch.Generator().manual_seed(0)
    for name, count, num_frames in (("clips", motion.HELD_OUT + 8, 16), ("stills", unet.HELD_OUT + 16, 1)):
        mean = torch.randn(count, num_frames, 4, 16, 16, generator=generator).half()
        text = torch.randn(count, 8, 192, generator=generator).half()
        Latents(mean, torch.zeros_like(mean), text, torch.zeros(8, 192).half()).save(tmp_path / f"{name}.pt")
    data = (tmp_path / "clips.pt", tmp_path / "stills.pt")
    on_every_core(motion.train_worker, *data, tmp_path / "unet", tmp_path / "motion", 3.0, processes=2)
    taught, adapter = motion.finished(tmp_path / "unet", tmp_path / "motion")
    before, after = base.state_dict(), taught.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert all(value.abs().sum() > 0 for name, value in adapter.named_parameters() if "proj_out.weight" in name)


def test_frames_keep_their_own_positions():
    from cdvideo.pocket.recipes import motion, unet

    base = unet.build()
    model = motion.moving_parts(base, motion.build(base))
    tables = [layer.pe.clone() for layer in model.modules() if isinstance(layer, SinusoidalPositionalEmbedding)]
    frames = motion.Positions(model).chosen(16, torch.Generator().manual_seed(1))
    assert len(frames) == motion.FRAMES_A_STEP and (frames.diff() > 0).all() and frames.tolist() != list(range(8))
    shown = [layer.pe for layer in model.modules() if isinstance(layer, SinusoidalPositionalEmbedding)]
    assert all(torch.equal(now[0, 3], table[0, frames[3]]) for now, table in zip(shown, tables, strict=True))


def test_the_autoencoder_starts_near_the_identity():
    pictures, _ = autoencoder.world_batch(Painter(FlatIcons()), np.random.default_rng(0), 8)
    torch.manual_seed(0)
    model = autoencoder.build()
    autoencoder._match_gains(model, pictures)
    with torch.no_grad():
        restored = model.decode(model.encode(pictures).latent_dist.mode()).sample
    pooled = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(pictures, 8), scale_factor=8, mode="bilinear")
    assert autoencoder.psnr(restored, pictures) > autoencoder.psnr(pooled, pictures) - 2


def test_the_tokenizer_knows_the_worlds_words_and_spells_the_others():
    tokenizer = clip.train_tokenizer(count=3000)
    assert [len(tokenizer(word, add_special_tokens=False).input_ids) for word in ("bear", "headphones", "beach")] == [1, 1, 1]
    assert len(tokenizer("quizzical", add_special_tokens=False).input_ids) > 3
    assert tokenizer("a bear").input_ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id == len(tokenizer) - 1


def test_an_average_follows_and_steps_aside():
    model = torch.nn.Linear(2, 2)
    average = Average(model, decay=0.5)
    first = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += 1
    average.update()  # the decay warms up: (1 + 1) / (10 + 1)
    with average.applied():
        assert torch.allclose(model.weight, first + 1 - 2 / 11)
    assert torch.allclose(model.weight, first + 1)


def test_rates_are_constant_and_then_decay():
    assert [constant_then_decay(at) for at in (0.005, 0.5, 0.79, 0.9)] == pytest.approx([0.5, 1, 1, 0.5])


def test_a_run_goes_on_where_it_stopped(tmp_path):
    def make():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.LayerNorm(40))
        return model, Optimisers(model)

    def step(model, optimisers, number):
        model.zero_grad()
        model(torch.randn(4, 40, generator=torch.Generator().manual_seed(number))).pow(2).mean().backward()
        optimisers.step(1e-2)

    whole, optimisers = make()
    for number in range(6):
        step(whole, optimisers, number)
    parts, optimisers = make()
    run = Run.open(tmp_path, model=parts, optimisers=optimisers)
    for number in range(3):
        step(parts, optimisers, number)
        run.step += 1
    run.save(model=parts, optimisers=optimisers)
    resumed, optimisers = make()
    run = Run.open(tmp_path, model=resumed, optimisers=optimisers)
    assert run.step == 3
    for number in range(3, 6):
        step(resumed, optimisers, number)
    assert all(torch.equal(one, two) for one, two in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_two_processes_train_the_unet_and_go_on(tmp_path):
    from cdvideo.pocket.recipes import unet

    generator = torch.Generator().manual_seed(0)
    count = unet.HELD_OUT + 64
    mean = torch.randn(count, 1, 4, 16, 16, generator=generator).half()
    latents = Latents(mean, torch.zeros_like(mean), torch.randn(count, 8, 192, generator=generator).half(), torch.zeros(8, 192).half())
    latents.save(tmp_path / "data.pt")
    steps, seconds = [], 1.0
    for _ in range(2):
        on_every_core(unet.train_worker, tmp_path / "data.pt", tmp_path / "unet", seconds, processes=2)
        saved = torch.load(tmp_path / "unet" / "checkpoint.pt", weights_only=True)
        steps.append(saved["step"])
        seconds = saved["seconds"] + 1.0
    assert 0 < steps[0] < steps[1]
    assert saved["trained"]["conv_out.weight"].abs().sum() > 0, "the zero-initialised output has moved"


@pytest.mark.parametrize("able", [True, False])
def test_muon_steps_as_torchs_does_also_in_fp32(monkeypatch, able):
    monkeypatch.setattr("cdvideo.pocket.recipes.device.cpu_computes_in_bf16", lambda: able)
    generator = torch.Generator().manual_seed(0)
    starts = [
        scale * torch.randn(shape, generator=generator) for scale, shape in ((1, (64, 40)), (1, (40, 64)), (1, (33, 33)), (5, (64, 40)))
    ]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    settings = {"weight_decay": 0.01, "adjust_lr_fn": "match_rms_adamw"}
    steppers = (Muon(ours, weight_decay=0.01), torch.optim.Muon(theirs, lr=1e-3, **settings))
    for _ in range(4):
        for own, other in zip(ours, theirs, strict=True):
            own.grad = own.detach().abs().mean() * torch.randn(own.shape, generator=generator)
            other.grad = own.grad.clone()
        for stepper in steppers:
            stepper.step()
    for start, own, other in zip(starts, ours, theirs, strict=True):
        assert torch.cosine_similarity((own - start).flatten(), (other - start).flatten(), dim=0) > 0.999
        assert torch.allclose(own, other, atol=3e-4)
    values = torch.linalg.svdvals(orthogonalised(starts[0][None])[0].float())
    assert values.min() > 0.6 and values.max() < 1.3
    steppers[0].load_state_dict(steppers[1].state_dict())


def test_two_processes_train_a_camera_move_for_a_frozen_motion_module(tmp_path):
    from cdvideo.motion import LoraInjection, MotionLora, MotionModule, attach
    from cdvideo.pocket.recipes import camera, motion, unet

    torch.manual_seed(0)
    base = unet.build()
    adapter = motion.build(base)
    for name, decay in (("unet", unet.DECAY), ("motion", motion.DECAY)):
        trained = base if name == "unet" else motion.moving_parts(base, adapter)
        with torch.no_grad():
            for value in trained.parameters():
                value.add_(0.02 * torch.randn_like(value) * value.requires_grad)
        Run.open(tmp_path / name).save(average=Average(trained, decay))
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(camera.HELD_OUT + 8, 16, 4, 16, 16, generator=generator).half()
    text = torch.randn(len(mean), 8, 192, generator=generator).half()
    Latents(mean, torch.zeros_like(mean), text, torch.zeros(8, 192).half()).save(tmp_path / "data.pt")
    folders = (tmp_path / "unet", tmp_path / "motion", tmp_path / "zoom-in")
    on_every_core(camera.train_worker, tmp_path / "data.pt", *folders, 2.0, processes=2)
    state = camera.finished(tmp_path / "zoom-in")
    assert all(value.abs().sum() > 0 for value in state.values()), "every zero-initialised matrix has moved"

    begin_with(tmp_path / "again", camera.as_trained(state))
    assert all(torch.equal(value, state[name]) for name, value in camera.finished(tmp_path / "again").items()), (
        "what ships can be gone on with"
    )

    lora = MotionLora.from_state(state, source="zoom-in")
    _, made = motion.finished(tmp_path / "unet", tmp_path / "motion")
    assert all(torch.equal(value, adapter.state_dict()[name]) for name, value in made.state_dict().items()), "the module is frozen"
    inputs = torch.randn(1, 4, 16, 8, 8), torch.tensor(500), torch.randn(16, 8, 192)
    trained = camera.moving_parts(attach(base, MotionModule.from_adapter(adapter, source="pocket")))
    Average(trained, camera.DECAY).put(torch.load(tmp_path / "zoom-in" / "checkpoint.pt", weights_only=True)["average"]["values"])
    model = attach(base, MotionModule.from_adapter(made, source="pocket"))
    with torch.no_grad(), LoraInjection(model, [(lora, 1.0)]):
        assert (model(*inputs).sample - trained(*inputs).sample).abs().max() < 1e-4


def test_the_decoder_goes_on_alone_and_latents_stay(tmp_path, monkeypatch):
    usual = autoencoder.world_batch
    monkeypatch.setattr(autoencoder, "world_batch", lambda painter, rng, size: usual(painter, rng, min(size, 16)))
    painter = Painter(FlatIcons())
    pictures, _ = autoencoder.world_batch(painter, np.random.default_rng(0), 2)
    autoencoder.train(painter, tmp_path / "joint", 0.1)
    before = autoencoder.finished(painter, tmp_path / "joint")
    autoencoder.train_decoder(painter, copy.deepcopy(before), tmp_path / "decoder", 2.0)
    after = autoencoder.with_decoder(copy.deepcopy(before), tmp_path / "decoder")
    with torch.no_grad():
        assert torch.equal(before.encode(pictures).latent_dist.mode(), after.encode(pictures).latent_dist.mode())
    changed = [name for name, value in after.named_parameters() if not torch.equal(value, dict(before.named_parameters())[name])]
    assert changed and all(name.startswith("decoder.") for name in changed)


def test_a_training_begins_with_the_weights_that_it_is_given(tmp_path):
    given = {"weight": torch.full((3, 4), 0.5)}
    begin_with(tmp_path, given)
    model = torch.nn.Linear(4, 3)
    bias = model.bias.detach().clone()
    optimisers, average = Optimisers(model), Average(model, 0.9)
    run = Run.open(tmp_path, model=model, average=average, optimisers=optimisers)
    assert (run.step, run.elapsed < 1) == (0, True)
    assert torch.equal(model.weight, given["weight"]) and torch.equal(average.values["weight"], given["weight"])
    assert torch.equal(model.bias, bias), "what was not given begins as usual"


def test_the_vision_tower_goes_on_alone_and_texts_stay(tmp_path, monkeypatch):
    usual, tokenizer = clip.held_out_accuracy, clip.train_tokenizer(count=3000)
    monkeypatch.setattr(clip, "held_out_accuracy", lambda painter, lesson, count: usual(painter, lesson, 32))
    monkeypatch.setattr(clip, "train_tokenizer", lambda: tokenizer)
    painter = Painter(FlatIcons())
    clip.train(painter, tmp_path / "clip", 0.1)
    before = clip.Lesson.finished(tmp_path / "clip")
    clip.train_vision(painter, tmp_path / "clip", tmp_path / "vision", 3.0)
    after = clip.Lesson.finished(tmp_path / "clip", tmp_path / "vision")
    old = dict(before.modules.named_parameters())
    changed = {name.split(".")[1] for name, value in after.modules.named_parameters() if not torch.equal(value, old[name])}
    assert "vision_model" in changed and not changed & {"text_model", "text_projection", "logit_scale"}


def test_what_a_caption_leaves_unsaid_is_no_label():
    def scene(**values):
        return Scene(subject="bear", drawing=("noto", "bear"), place="beach", side="left", **values)

    labels = clip.labels_said([scene(), scene(), scene(blurred=True)], ["a bear on the left", "a bear by the sea", "bad quality"])
    beach, left = clip.LABELS["place"].index("beach"), clip.LABELS["side"].index("left")
    assert labels["place"].tolist() == [-1, beach, -1]
    assert labels["side"].tolist() == [left, -1, -1]
    assert labels["subject"].tolist() == [0, 0, -1]


def test_curves_and_grids_are_drawn(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"step": {step}, "seconds": {step * 2}, "loss": {1 / (1 + step)}}}\n' for step in range(30)))
    draw_curve(log, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as curve:
        # Steeply down, then flat: the blue line is higher on the left than on the right.
        blue = (np.asarray(curve).astype(int) @ [-1, 0, 1]) > 100
        rows = [np.nonzero(blue[:, column])[0].mean() for column in (50, 200, 340)]
        assert rows[0] < rows[1] < rows[2] + 12
    pictures = [Image.new("RGB", (40, 40), (value, 0, 0)) for value in (10, 20, 30)]
    sheet = grid(pictures, 2, ["one", "two", "three"])
    assert sheet.width == 80 and sheet.getpixel((20, 20)) == (10, 0, 0) and sheet.getpixel((60, 20)) == (20, 0, 0)
    assert sheet.getpixel((20, sheet.height // 2 + 20)) == (30, 0, 0)


def test_only_a_share_of_the_way_is_exported(tmp_path, monkeypatch):
    """A quarter of the way from weights of 1 to weights of 3 is 1.5, in the UNet and in the motion module."""
    from cdvideo.pocket import workshop
    from cdvideo.pocket.recipes import motion, unet

    monkeypatch.setattr(workshop, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(workshop, "MOTION_WEIGHTS", tmp_path / "motion")
    for value, share in ((1.0, 1.0), (3.0, 0.25)):
        base = unet.build()
        parts = base, motion.build(base)
        with torch.no_grad():
            for part in parts:
                for parameter in part.parameters():
                    parameter.fill_(value)
        monkeypatch.setattr(workshop.Workshop, "moving", lambda self, parts=parts: parts)
        workshop.export_moving(workshop.Workshop(tmp_path, 1, 1), share)
    for folder in (tmp_path / "weights" / "unet", tmp_path / "motion"):
        written = load_file(folder / workshop.DIFFUSERS_FILE)
        assert written and all((value == 1.5).all() for name, value in written.items() if not name.endswith("pos_embed.pe"))
