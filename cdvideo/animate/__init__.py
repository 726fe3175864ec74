"""Animation: a base, a motion module, concepts and a prompt become a Clip. A still is a clip of one frame without motion."""

from cdvideo.animate.render import OnStep, Studio, describe_cameras, describe_size_problem, parse_size
from cdvideo.animate.replaying import replay

__all__ = ["OnStep", "Studio", "describe_cameras", "describe_size_problem", "parse_size", "replay"]
