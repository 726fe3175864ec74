"""Motion: AnimateDiff's modules, from a file to a UNet that moves, and the MotionLoRAs that make its camera move."""

from cdvideo.motion.attach import attach
from cdvideo.motion.convert import Conversion, convert
from cdvideo.motion.loading import load_motion, motion_for
from cdvideo.motion.lora import LoraInjection, MotionLora, WeightedLora, load_motion_lora, parse_camera, save_motion_lora
from cdvideo.motion.module import MotionModule
from cdvideo.motion.norm import MOTION_NORMS, set_motion_norm

__all__ = [
    "MOTION_NORMS",
    "Conversion",
    "LoraInjection",
    "MotionLora",
    "MotionModule",
    "WeightedLora",
    "attach",
    "convert",
    "load_motion",
    "load_motion_lora",
    "motion_for",
    "parse_camera",
    "save_motion_lora",
    "set_motion_norm",
]
