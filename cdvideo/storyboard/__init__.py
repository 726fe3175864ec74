"""Storyboards: a YAML file of shots becomes a film."""

from cdvideo.storyboard.film import Film, render, slug

__all__ = ["Film", "render", "slug"]
