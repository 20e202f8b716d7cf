"""Real sweeps to be killed, filled up and corrupted: small, on digits, on one thread."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    *("model=vit_micro", "model.weights=random", "dataset=digits", "device=cpu", "device.num_threads=1"),
    *("dataset.train_size=256", "dataset.val_size=64", "dataset.batch_size=16", "train.epochs=2"),
    *("train.measure=false", "train.checkpoint_every=3", "logger=none"),
)
SECONDS = 900  # after which something hangs


def start(*words: str, cwd: Path) -> subprocess.Popen:
    """`train.py` in a process group of its own; `words` win over `SMALL`."""
    flags, given = [word for word in words if word.startswith("-")], {word.partition("=")[0] for word in words}
    small = [word for word in SMALL if word.partition("=")[0] not in given]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *flags, *small, *(word for word in words if word not in flags)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def run(*words: str, cwd: Path) -> tuple[int, str]:
    """Exit status, and what it printed."""
    process = start(*words, cwd=cwd)
    output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, output


def kill(process: subprocess.Popen) -> None:
    """The whole group, at once, as a machine that is switched off would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def outcome(sweep: Path) -> dict[str, tuple]:
    """By job: how it ended, every number but times and the process's own peak, and every byte of its model."""
    found, of_a_process = {}, ("time/", "memory/process_rss_peak_mib")
    for path in sorted(sweep.glob("*/result.json")):
        content = result(path.parent)
        model = path.with_name("model.safetensors")
        numbers = {name: value for name, value in content["metrics"].items() if not name.startswith(of_a_process)}
        found[path.parent.name] = content["status"], numbers, model.read_bytes() if model.exists() else None
    return found
