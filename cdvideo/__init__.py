"""cdvideo: photos of one subject become a concept, a concept and a prompt become a clip, clips become a film."""

__version__ = "0.1.0"
