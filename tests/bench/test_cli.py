"""bench_device.py as its users start it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.imports import TRACED, without_imports

ROOT = Path(__file__).resolve().parents[2]
METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
SMALL = (
    "model=vit_micro",
    "model.weights=random",
    "dataset=synthetic",
    "dataset.batch_size=4",
    "dataset.train_size=16",
    "dataset.val_size=4",
    "rank.activation_selection=fixed",
    "rank.activation_ranks=[4,8,16]",
    "device=cpu",
    "device.num_threads=1",
    "bench.warmup=1",
    "bench.min_count=4",
    "bench.min_seconds=0",
    "bench.rounds=2",
)


def start(*arguments, python=()):
    return subprocess.Popen(
        [sys.executable, *python, "bench_device.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, python=()):
    process = start(*arguments, python=python)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def light(*arguments):
    """Run, and see to it that nothing heavy, most of what a start costs, was imported."""
    code, out, err = run(*arguments, python=TRACED)
    return code, out, without_imports(err)


def test_help_imports_nothing_heavy():
    code, out, _ = light("--help")
    assert code == 0 and "bench.baseline" not in out and "baseline: vanilla" in out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bench.roundz=3"], "roundz"),
        (["bench.rounds=0"], "bench.rounds=0: allowed is a whole number from 1 up"),
        (
            ["bench.baseline=nothing"],
            f"bench.baseline=nothing: allowed is {', '.join(METHODS)} or null",
        ),
        (["+hydra.foo=1"], "hydra.foo=1: allowed is one of hydra.callbacks, "),
        (["-m", "+hydra.foo=1"], "hydra.foo=1: allowed is one of hydra.callbacks, "),
        (["-m", "bench.baseline=nothing", "seed=1,2"], "bench.baseline=nothing: allowed is"),
        (["-m", "bench.rounds=0", "seed=1,2"], "bench.rounds=0: allowed is"),
        (["-m", "hydra.sweep.subdir=${seed}", "seed=1,2"], "hydra.sweep.subdir=${seed}: allowed is ${bench_folder:}"),
    ],
)
def test_a_wrong_option_is_told_before_anything_heavy_is_imported(tmp_path, overrides, message):
    folders = [f"hydra.run.dir={tmp_path}/run", f"hydra.sweep.dir={tmp_path}/sweep"]
    code, _, err = light(*overrides, "model=vit_micro", "dataset=digits", *folders)
    assert code != 0 and message in err and "Traceback" not in err


def test_a_sweep_from_end_to_end(tmp_path):
    """vanilla against itself, wasi against vanilla, and two that do not work."""
    varied = ["method=vanilla,wasi", "dataset.image_size=28,30", f"hydra.sweep.dir={tmp_path}"]
    code, out, err = run("-m", *SMALL, *varied)
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/bench.json"))]
    assert len(results) == 4 and code == 1
    failed = [r for r in results if r["status"] == "failed"]
    assert len(failed) == 2 and all("image_size=30" in r["error"] and r["metrics"] == {} for r in failed)
    for done in (r for r in results if r["status"] == "completed"):
        check(done)
    assert (tmp_path / "bench.csv").read_text().count("\n") == 5
    assert len(list(tmp_path.glob("time_vs_epsilon_*.png"))) == 1
    assert "speed-up" in out and "image_size=30" in err


def check(result):
    metrics, base = result["metrics"], result["baseline"]["metrics"]
    parts = ("weights", "gradients", "optimizer", "activations", "temporary")
    for side in (metrics, base):
        assert sum(side[f"memory/train_{part}_mib"] for part in parts) == pytest.approx(
            side["memory/train_peak_mib"]
        )
        assert side["memory/process_rss_peak_mib"] > side["memory/train_rss_peak_mib"] > 0
        assert side["memory/stored_inputs_mib"] > 0 and side["flops/train_step"] > 0
        assert side["time/train_step_ms_p50"] <= side["time/train_step_ms_p90"]
    if result["config"]["method"]["name"] == "vanilla":
        exact = [
            r
            for name, r in result["ratio"].items()
            if not name.startswith(("time", "flops/train_ach", "flops/inf")) and "_rss_" not in name
        ]
        assert exact and all(r == {"p50": 1, "low": 1, "high": 1} for r in exact)
    assert [len(rounds) for rounds in result["samples"]["ours"]["time/train_step_ms"]] == [2, 2]
    assert result["baseline"]["config"]["method"]["scope"] == result["config"]["method"]["scope"]
    assert result["environment"]["threads"] == {"torch": 1, "OMP_NUM_THREADS": "1"}
    assert any("weight_rank" in layer for layer in result["layers"]) == (result["config"]["method"]["name"] == "wasi")


def _command_of(process):
    """Empty for one that has just ended, as helpers of a start do."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def children_of(process, wanted):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = [p for p in psutil.Process(process.pid).children() if "wasi.bench.child" in _command_of(p)]
        if len(found) >= wanted:
            return found
        time.sleep(0.1)
    raise AssertionError("no measuring process was started")


def test_a_child_killed_from_outside(tmp_path):
    process = start(*SMALL, "method=vanilla", f"hydra.run.dir={tmp_path}")
    children_of(process, 1)[0].kill()
    _, err = process.communicate(timeout=300)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert process.returncode == 1 and result["status"] == "failed"
    assert "the measuring process was killed by SIGKILL, possibly out of memory" in result["error"]
    assert result["error"] in err


def test_ctrl_c_keeps_what_was_measured(tmp_path):
    process = start(
        *SMALL, "bench.baseline=null", "bench.rounds=100000", "bench.min_count=200000", f"hydra.run.dir={tmp_path}"
    )
    for line in process.stdout:
        if "round 2/" in line:
            break
    children = children_of(process, 1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert process.returncode == 130 and result["status"] == "interrupted"
    assert result["metrics"]["time/train_step_ms_p50"] > 0 and result["baseline"] is None
    assert psutil.wait_procs(children, timeout=10)[1] == []
