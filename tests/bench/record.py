"""What a benchmark leaves: one JSON file, written after every part, and a small table."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path("out/bench")


class Record:
    """The measurements in `out/bench/NAME.json`. What the file holds already is kept, so that parts may be measured at different times."""

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        self.path = folder / f"{name}.json"
        self.values: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}

    def put(self, **values: Any) -> None:
        self.values |= values
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".json.part")
        whole.write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")
        whole.replace(self.path)


def conditions() -> dict[str, Any]:
    """What the figures depend on besides the code. `load` is the machine's mean of running processes over the last minute."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def table(rows: list[tuple[str, str, str]]) -> str:
    """Lines of what was measured, its figure, and its goal."""
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{what:{widths[0]}}  {figure:>{widths[1]}}  {goal}".rstrip() for what, figure, goal in rows)


def psnr(frames: Any, reference: Any) -> float:
    """Peak signal-to-noise ratio in dB of uint8 frames."""
    error = np.mean((frames.astype(np.float64) - reference) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
