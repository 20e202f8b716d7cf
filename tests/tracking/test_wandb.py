"""W&B, offline: what was logged is in its file, under the contract's names."""

import json
import sys
import time

import pytest

from wasi.errors import UserError
from wasi.tracking import NullTracker, check_login, open_tracker

wandb = pytest.importorskip("wandb")


@pytest.fixture
def offline(compose_config):
    return compose_config("logger=wandb_offline", "sweep=together", "rank.weight_epsilon=0.7")


def test_an_offline_run_reads_back(tmp_path, offline):
    tracker = open_tracker(offline, tmp_path, "abc")
    tracker.log(1, {"train/loss": 2.0, "lr": 0.1})
    tracker.log(2, {"train/loss": 1.5, "lr": 0.05})
    tracker.log(2, {"val/acc": 0.5})
    tracker.summary({"val/acc": 0.5, "memory/train_peak_mib": 0.0})
    tracker.finish(0)
    records = _records(tmp_path)

    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (run.project, run.run_group, run.display_name) == ("wasi", "together", tmp_path.name)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["rank"]["weight_epsilon"] == config["method"]["weight_epsilon"] == 0.7
    assert config["fingerprint"] == "abc"

    history = [_items(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]
    assert [(h["train/step"], h["train/loss"]) for h in history if "train/loss" in h] == [(1, 2.0), (2, 1.5)]
    assert [(h["train/step"], h["val/acc"]) for h in history if "val/acc" in h] == [(2, 0.5)]

    summary = {}
    for record in records:
        if record.WhichOneof("record_type") == "summary":
            summary.update(_items(record.summary.update))
    assert (summary["val/acc"], summary["memory/train_peak_mib"]) == (0.5, 0.0)

    metrics = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
    assert "train/step" in {m.name for m in metrics} and "train/step" in {m.step_metric for m in metrics}
    assert next(r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit") == 0


def test_nothing_tells_where_files_lie(tmp_path, compose_config, monkeypatch):
    places = tmp_path / "secret" / "photos", tmp_path / "here" / "data"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    weights = f"model.weights={places[0]}/w.safetensors"
    cfg = compose_config("logger=wandb_offline", weights, f"dataset.root={places[1]}")
    tracker = open_tracker(cfg, tmp_path, "abc")
    tracker.finish(0)
    records = _records(tmp_path)
    assert not any(str(tmp_path) in str(record) or sys.executable in str(record) for record in records)
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["model"]["weights"], config["dataset"]["root"]) == ("w.safetensors", "data")
    assert config["scheduler"]["_target_"] == cfg.scheduler._target_


def test_a_failed_run_is_marked_and_the_next_one_is_its_own(tmp_path, offline):
    ids = []
    for name, code in (("first", 1), ("second", 0)):
        (tmp_path / name).mkdir()
        tracker = open_tracker(offline, tmp_path / name, name)
        tracker.finish(code)
        records = _records(tmp_path / name)
        assert next(r.exit.exit_code for r in records if r.WhichOneof("record_type") == "exit") == code
        ids.append(next(r.run.run_id for r in records if r.WhichOneof("record_type") == "run"))
    assert len(set(ids)) == 2


def test_the_id_is_of_the_sweep_and_the_fingerprint():
    from wasi.tracking.wandb_tracker import run_id

    ids = [run_id(*of) for of in (("s", "f"), ("s", "g"), ("t", "f"))]
    assert len(set(ids)) == 3 and run_id("s", "f") == ids[0]
    assert all(len(i) == 16 and i.isalnum() for i in ids)


def test_online_without_a_key_is_refused_with_the_way_out(tmp_path, monkeypatch, compose_config):
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    cfg = compose_config("logger=wandb")
    for attempt in (lambda: open_tracker(cfg, tmp_path, "abc"), lambda: check_login(cfg.logger)):
        with pytest.raises(UserError) as error:
            attempt()
        assert "logger=wandb_offline" in str(error.value) and "logger=none" in str(error.value)
        assert "\n" not in str(error.value)


def test_no_login_is_needed_where_none_is_used(compose_config):
    for logger in ("none", "wandb_offline"):
        check_login(compose_config(f"logger={logger}").logger)


def test_without_a_logger_nothing_is_written(tmp_path, compose_config):
    tracker = open_tracker(compose_config(), tmp_path, "abc")
    assert isinstance(tracker, NullTracker)
    tracker.log(1, {"train/loss": 1.0})
    tracker.summary({})
    tracker.finish(0)
    assert list(tmp_path.iterdir()) == []


def _records(folder) -> list:
    """All records of a finished run, whose last ones the backend may still be writing when `finish` returns."""
    deadline = time.monotonic() + 20
    while True:
        records = _written(folder)
        if any(r.WhichOneof("record_type") == "exit" for r in records) or time.monotonic() > deadline:
            return records
        time.sleep(0.05)


def _written(folder) -> list:
    """The record log: 32 KiB blocks of [crc u32, length u16, kind u8] chunks after a 7-byte header."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = (folder / "wandb").glob("offline-run-*/run-*.wandb")
    raw, place, parts, records = path.read_bytes(), 7, b"", []
    while place + 7 <= len(raw):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length, kind = int.from_bytes(raw[place + 4 : place + 6], "little"), raw[place + 6]
        parts += raw[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def _items(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
