"""The libraries' own pipelines, for comparison."""

from typing import Any

from diffusers import AnimateDiffPipeline, MotionAdapter

from cdvideo.resources import resource
from cdvideo.sampling import make_scheduler


def animatediff_pipeline(base: Any, steps: int, *, schedule: str = "animatediff", sampler: str = "ddim") -> AnimateDiffPipeline:
    """diffusers' pipeline on a pocket base's own parts and the motion module that ships, in fp32."""
    pipeline = AnimateDiffPipeline(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        motion_adapter=MotionAdapter.from_pretrained(resource("motion_modules", "pocket")).float(),
        scheduler=make_scheduler(schedule, steps, sampler=sampler),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
