"""Clips of frames, and the files they become: MP4, WebM, GIF, PNG, a folder of PNGs, a contact sheet; sound and captions. No torch."""

from cdvideo.video.clip import Clip, concatenate
from cdvideo.video.destination import check_destination
from cdvideo.video.read import describe, read, read_record
from cdvideo.video.sheet import contact_sheet
from cdvideo.video.sound import Sound, check_sound
from cdvideo.video.subtitles import Cue, to_srt, to_webvtt
from cdvideo.video.write import write, write_frames

__all__ = [
    "Clip",
    "Cue",
    "Sound",
    "check_destination",
    "check_sound",
    "concatenate",
    "contact_sheet",
    "describe",
    "read",
    "read_record",
    "to_srt",
    "to_webvtt",
    "write",
    "write_frames",
]
