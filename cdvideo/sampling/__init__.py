"""Sampling: noise, then a schedule, then denoising. Pure functions on tensors, over any UNet."""

from cdvideo.sampling.denoise import denoise, guided_noise
from cdvideo.sampling.noise import seeded_noise
from cdvideo.sampling.schedules import SCHEDULES, make_scheduler

__all__ = ["SCHEDULES", "denoise", "guided_noise", "make_scheduler", "seeded_noise"]
