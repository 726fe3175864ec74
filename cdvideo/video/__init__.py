"""Clips of frames, and the files they become: MP4, WebM, GIF, PNG, a folder of PNGs, a contact sheet. No torch."""

from cdvideo.video.clip import Clip, concatenate
from cdvideo.video.destination import check_destination
from cdvideo.video.read import describe, read, read_record
from cdvideo.video.sheet import contact_sheet
from cdvideo.video.write import write

__all__ = ["Clip", "check_destination", "concatenate", "contact_sheet", "describe", "read", "read_record", "write"]
