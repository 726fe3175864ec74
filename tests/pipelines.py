"""The libraries' own pipelines, for comparison."""

from typing import Any

from diffusers import AnimateDiffPipeline, MotionAdapter

from cdvideo.resources import resource
from cdvideo.sampling import make_scheduler


def animatediff_pipeline(base: Any, steps: int, *, schedule: str = "animatediff", sampler: str = "ddim") -> AnimateDiffPipeline:
    """diffusers' pipeline on a pocket base's own parts and the motion module that ships, in fp32."""
    return pocket_pipeline(AnimateDiffPipeline, base, make_scheduler(schedule, steps, sampler=sampler))


def pocket_pipeline(kind: Any, base: Any, scheduler: Any) -> Any:
    """Any of diffusers' AnimateDiff pipelines of these parts, with that scheduler."""
    pipeline = kind(
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        motion_adapter=MotionAdapter.from_pretrained(resource("motion_modules", "pocket")).float(),
        scheduler=scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
