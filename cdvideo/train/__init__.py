"""Training: photos of a subject become a Concept."""

from cdvideo.train.checkpoint import check_resumable, checkpoint_path
from cdvideo.train.loop import Milestone, Progress, train
from cdvideo.train.methods import METHODS, check_spl_weight, find_method
from cdvideo.train.photos import find_photos, load_photo, load_photos
from cdvideo.train.subject import Subject

__all__ = [
    "METHODS",
    "Milestone",
    "Progress",
    "Subject",
    "check_resumable",
    "check_spl_weight",
    "checkpoint_path",
    "find_method",
    "find_photos",
    "load_photo",
    "load_photos",
    "train",
]
