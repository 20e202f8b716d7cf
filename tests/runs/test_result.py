"""result.json is written whole or not at all, and is strict JSON."""

import json
import os

import numpy as np
import pytest

from wasi.runs.result import measured, read_result, strict, write_json


def test_what_was_written_is_read_back(tmp_path):
    content = {"status": "completed", "metrics": {"val/acc": 0.1 + 0.2, "time/x": 0.0}, "layers": [{"name": "ä"}]}
    write_json(tmp_path / "result.json", content)
    assert read_result(tmp_path) == content
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_json(tmp_path / "result.json", {"status": "running"})
    monkeypatch.setattr(os, "replace", _no_space)
    with pytest.raises(OSError):
        write_json(tmp_path / "result.json", {"status": "completed"})
    with pytest.raises(ValueError):
        write_json(tmp_path / "result.json", {"metrics": {"train/loss": float("nan")}})
    assert read_result(tmp_path) == {"status": "running"}
    assert os.listdir(tmp_path) == ["result.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"status": "comp'])
def test_what_is_no_result_is_none(tmp_path, text):
    assert read_result(tmp_path) is None
    (tmp_path / "result.json").write_text(text)
    assert read_result(tmp_path) is None


def test_measured_keeps_zero_and_drops_what_is_not_a_number():
    given = {
        "zero": 0.0,
        "numpy": np.float32(0.5),
        "count": np.int64(3),
        "nan": float("nan"),
        "inf": np.float64("inf"),
        "none": None,
    }
    kept = measured(given)
    assert kept == {"zero": 0.0, "numpy": 0.5, "count": 3}
    assert {type(v) for v in kept.values()} == {float, int}


def test_strict_is_json_without_extensions():
    value = {1: float("inf"), "list": (1, None, True, 2.5), "path": os.PathLike}
    text = json.dumps(strict(value), allow_nan=False)
    assert json.loads(text)["list"] == [1, None, True, 2.5] and '"1": "inf"' in text


def _no_space(*_):
    raise OSError(28, "No space left on device")
