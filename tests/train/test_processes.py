"""Two processes that train together are one with twice the pictures. Real processes, on CPUs, over gloo."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cdvideo.concept import Concept
from cdvideo.train.processes import Processes
from tests.train import children
from tests.train.trainings import relative_difference, run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("method", ["classdiffusion", "dreambooth"])
def test_two_processes_of_one_picture_are_one_of_two(small, small_folder, pictures, tmp_path, method, one_thread):
    settings = {"steps": 4, "learning_rate": 1e-4, "method": method, "class_pictures": {"bear": pictures["V2*"]}, "checkpoint_every": 2}
    port = children.free_port()
    folders = [tmp_path / "first", tmp_path / "second"]
    started = [
        children.share(rank, 2, port, folder, small_folder, pictures, {**settings, "batch_size": 1}) for rank, folder in enumerate(folders)
    ]
    alone = run(small, pictures, tmp_path / "alone.safetensors", batch_size=2, **settings)
    for process in started:
        process.join(100)
    assert [process.exitcode for process in started] == [0, 0]

    (first_losses, first), (second_losses, second) = [pickle.loads((folder / "result").read_bytes()) for folder in folders]
    assert all(np.array_equal(first[name], second[name]) for name in first), "every process ends with the same weights"
    assert relative_difference({name: torch.from_numpy(value) for name, value in first.items()}, alone.tensors()) < 1e-5
    assert np.allclose(first_losses, alone.losses().numpy(), rtol=1e-4), "the losses told are those of all processes"
    assert len(second_losses) == 0
    assert sorted(path.name for path in folders[0].iterdir()) == ["bear.safetensors", "result"]
    assert sorted(path.name for path in folders[1].iterdir()) == ["result"], "only the first process writes files"
    saved = Concept.load(folders[0] / "bear.safetensors")
    assert np.array_equal(saved.embeddings["V*"].numpy(), first["embedding.V*"]) and saved.header.training["batch_size"] == 2


def test_a_process_alone_joins_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = Processes.join(torch.device("cpu"))
    assert (processes.rank, processes.size, processes.is_first) == (0, 1, True)
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    processes.average_gradients([parameter])
    processes.wait()
    processes.close()
    assert torch.equal(parameter.grad, torch.ones(2)) and not torch.distributed.is_initialized()


def test_torchrun_trains_one_concept(small_folder, photo_folder, tmp_path):
    arguments = ["train", str(photo_folder), "--class", "bear", "--base", str(small_folder), "--device", "cpu", "--dtype", "fp32"]
    arguments += ["--method", "dreambooth", "--num-class-images", "1", "--steps", "2", "--batch-size", "1", "--out", "out/bear.safetensors"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master-port", str(children.free_port())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launcher, "-m", "cdvideo", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bear.safetensors", "bear.training"]
    assert Concept.load(tmp_path / "out" / "bear.safetensors").header.training["batch_size"] == 2
    assert len((tmp_path / "out" / "bear.training" / "log.jsonl").read_text().splitlines()) == 2
    assert done.stdout.count("concept: ") == 1, "the result is said once"
