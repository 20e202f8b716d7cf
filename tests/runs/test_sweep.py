"""Which jobs a sweep counts as failed."""

import os
import time

from wasi.runs.lock import sole_owner
from wasi.runs.result import write_json
from wasi.runs.sweep import failed_jobs


def _job(sweep, name, status, error=None, age=0.0):
    folder = sweep / name
    folder.mkdir()
    write_json(folder / "result.json", {"status": status, "error": error})
    then = time.time() - age
    os.utime(folder / "result.json", (then, then))
    return folder


def test_this_invocation_s_failures(tmp_path):
    _job(tmp_path, "fine", "completed")
    failed = _job(tmp_path, "failed", "failed", "train.epochs=0")
    diverged = _job(tmp_path, "diverged", "diverged", "loss")
    _job(tmp_path, "long_ago", "failed", "mended since", age=3600)
    (tmp_path / "no_result").mkdir()
    found = {path: result["error"] for path, result in failed_jobs(tmp_path, since=time.time()).items()}
    assert found == {failed: "train.epochs=0", diverged: "loss"}


def test_running_counts_once_its_process_is_gone(tmp_path):
    folder = _job(tmp_path, "killed", "running")
    with sole_owner(folder):
        assert failed_jobs(tmp_path, since=time.time()) == {}
    assert failed_jobs(tmp_path, since=time.time())[folder]["error"] == "its process died"
