"""Motion: AnimateDiff's modules, from a file to a UNet that moves."""

from cdvideo.motion.attach import attach
from cdvideo.motion.loading import load_motion
from cdvideo.motion.module import MotionModule
from cdvideo.motion.norm import MOTION_NORMS, set_motion_norm

__all__ = ["MOTION_NORMS", "MotionModule", "attach", "load_motion", "set_motion_norm"]
