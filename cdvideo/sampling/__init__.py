"""Sampling: noise, then a schedule, then denoising. Pure functions on tensors, over any UNet."""

from cdvideo.sampling.denoise import NoisePredictor, OnPrediction, OnStep, denoise, guided_noise
from cdvideo.sampling.free_init import reinitialized_noise
from cdvideo.sampling.noise import noise_generator, seeded_noise
from cdvideo.sampling.schedules import SAMPLERS, SCHEDULES, make_scheduler
from cdvideo.sampling.windows import WINDOW, long_noise, window_frames, windowed

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "WINDOW",
    "NoisePredictor",
    "OnPrediction",
    "OnStep",
    "denoise",
    "guided_noise",
    "long_noise",
    "make_scheduler",
    "noise_generator",
    "reinitialized_noise",
    "seeded_noise",
    "window_frames",
    "windowed",
]
