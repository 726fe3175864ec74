"""Animation: a base, a motion module, concepts and a prompt become a Clip. A still is a clip of one frame without motion."""

from cdvideo.animate.key_frames import parse_values
from cdvideo.animate.render import Studio
from cdvideo.animate.replaying import replay
from cdvideo.animate.settings import describe_cameras, describe_size_problem, parse_size
from cdvideo.sampling import OnPrediction, OnStep

__all__ = ["OnPrediction", "OnStep", "Studio", "describe_cameras", "describe_size_problem", "parse_size", "parse_values", "replay"]
