"""What the tests run in processes of their own. Imported ahead by the server that forks them (`conftest`), so that each starts at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import socket
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

import cdvideo.cli.train
import cdvideo.cli.training
from cdvideo import base
from cdvideo.cli import main
from tests.train.trainings import run

PRELOADED = (
    diffusers.AutoencoderKL,
    diffusers.DDIMScheduler,
    diffusers.DDPMScheduler,
    diffusers.UNet2DConditionModel,
    transformers.CLIPTextModel,
    transformers.CLIPTokenizer,
    cdvideo.cli.train.command,
    cdvideo.cli.training.train_concept,
)
context = multiprocessing.get_context("forkserver")


def command_line(arguments: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> BaseProcess:
    """A started `cdvideo` whose output goes into `log`."""
    return _started(_command_line, list(arguments), log, environment or {})


def share(rank: int, size: int, port: int, folder: Path, base_folder: Path, pictures: Any, settings: dict[str, Any]) -> BaseProcess:
    """One started process of `size` that train together, in a thread each; it leaves its losses and returned tensors in `folder`/result."""
    environment = {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return _started(_share, folder, base_folder, pictures, settings, environment)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _started(function: Any, *arguments: Any) -> BaseProcess:
    process = context.Process(target=function, args=arguments)
    process.start()
    return process


def _command_line(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        sys.exit(main(arguments, standalone_mode=False) or 0)


def _share(folder: Path, base_folder: Path, pictures: Any, settings: dict[str, Any], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    folder.mkdir()
    trained = run(base.load(str(base_folder), device="cpu", dtype="fp32"), pictures, folder / "bear.safetensors", **settings)
    tensors = {name: value.numpy() for name, value in trained.tensors().items()}
    (folder / "result").write_bytes(pickle.dumps((trained.losses().numpy(), tensors)))
