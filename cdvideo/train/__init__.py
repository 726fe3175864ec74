"""Training: photos of a subject become a Concept."""

from cdvideo.train.checkpoint import checkpoint_path
from cdvideo.train.loop import Progress, train
from cdvideo.train.methods import Subject
from cdvideo.train.photos import find_photos, load_photo

__all__ = ["Progress", "Subject", "checkpoint_path", "find_photos", "load_photo", "train"]
