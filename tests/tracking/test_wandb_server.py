"""W&B online, against a stand-in for its server that answers, refuses, hangs and dies."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tracking import wandb_file
from tests.tracking.test_wandb import RESULT, logged
from tests.tracking.wandb_server import KEY, served
from wasi.tracking import open_tracker

wandb = pytest.importorskip("wandb")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that answers, in the environment; everything that W&B remembers of others is forgotten."""
    for variable in ("WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr("wasi.tracking.wandb_tracker._unreachable_since", None)
    wandb.teardown()
    with served() as answering:
        monkeypatch.setenv("WANDB_BASE_URL", answering.address)
        yield answering
    wandb.teardown()


@pytest.fixture
def online(compose_config):
    quick = ("logger.init_timeout=2", "logger.finish_timeout=2", "logger.system_metrics=false")
    return compose_config("logger=wandb", "sweep=together", *quick)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Of a job, in the working folder."""
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "multirun" / "job"
    made.mkdir(parents=True)
    return made


def steps_at(server) -> list[int]:
    (lines,) = server.lines.values()
    return [row["_step"] for _, row in sorted(lines.items()) if "train/loss" in row]


def offline_command(caplog) -> str:
    """The one warning's command."""
    (warning,) = [record.getMessage() for record in caplog.records if record.name.startswith("wasi.tracking")
                  and record.levelname == "WARNING"]  # fmt: skip
    assert "\n" not in warning
    return warning.partition("upload it later with: ")[2]


def sync(command: str) -> None:
    words = command.split()
    assert words[:2] == ["wandb", "sync"]
    subprocess.run([sys.executable, "-m", *words, "--include-synced"], timeout=60, check=True, capture_output=True)


def test_a_stopped_run_goes_on_in_the_history_that_it_has(server, folder, online):
    tracker = open_tracker(online, folder, "abc")
    tracker.resume(0)
    logged(tracker, 1, 12)
    tracker.finish(143)  # after a checkpoint at step 12, in the middle of validation
    wandb.teardown()
    tracker = open_tracker(online, folder, "abc")
    tracker.resume(12)
    tracker.log(12, {"val/acc": 0.5})
    logged(tracker, 13, 20)
    tracker.finish(0, RESULT)
    assert steps_at(server) == list(range(1, 21))
    (history,) = map(server.history, server.lines)
    assert [row["_step"] for row in history if "val/acc" in row] == [12]
    assert any("result" in artifact for artifact in server.artifacts)


def test_a_killed_run_sends_no_step_twice_and_what_was_lost_on_the_way_again(server, folder, online):
    tracker = open_tracker(online, folder, "abc")
    tracker.resume(0)
    logged(tracker, 1, 12)
    tracker.finish(143)
    wandb.teardown()
    (lines,) = server.lines.values()
    for place in range(8, 11):  # the server has steps 1 to 8 only; the checkpoint is of step 10
        del lines[place]
    tracker = open_tracker(online, folder, "abc")
    tracker.resume(10)
    logged(tracker, 11, 20)
    tracker.finish(0)
    wandb.teardown()
    assert steps_at(server) == list(range(1, 21))
    tracker = open_tracker(online, folder, "abc")  # killed, with the server three steps ahead of the checkpoint
    tracker.resume(17)
    logged(tracker, 18, 24)
    tracker.finish(0)
    assert steps_at(server) == list(range(1, 25))


def test_nothing_that_is_sent_tells_where_files_lie(server, folder, online):
    (folder / "model.safetensors").write_bytes(b"weights")
    online.logger.log_model = True
    online.dataset.root = str(folder / "photos")
    tracker = open_tracker(online, folder, "abc")
    tracker.resume(0)
    logged(tracker, 1, 3)
    tracker.finish(0, RESULT | {"config": {"dataset": {"root": str(folder / "photos")}}})
    assert len(server.artifacts) >= 2
    assert server.bodies and not any(str(folder.parent.parent) in body for body in server.bodies)


@pytest.mark.parametrize("how", ["refuses", "hangs", "no key", "a key that is none"])
def test_a_server_out_of_reach_costs_one_warning_and_no_training(server, folder, online, monkeypatch, caplog, how):
    if how == "refuses":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    elif how == "hangs":
        server.hangs.set()
    elif how == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    else:
        monkeypatch.setenv("WANDB_API_KEY", "short")
    tracker = open_tracker(online, folder, "abc")
    tracker.resume(0)
    logged(tracker, 1, 5)
    tracker.finish(0, RESULT)
    assert wandb_file.steps(wandb_file.records(folder)) == [1, 2, 3, 4, 5]
    command = offline_command(caplog)
    assert Path(command.split()[-1]).parent == Path("multirun/job/wandb")
    if how != "no key":  # the next job of a sweep does not wait for it again
        assert open_tracker(online, folder, "next")._run.offline


@pytest.mark.parametrize(("how", "code"), [("dies", 0), ("hangs", 0), ("hangs", 143)])
def test_a_server_that_is_lost_in_the_middle_leaves_a_whole_offline_run(server, folder, online, caplog, how, code):
    tracker = open_tracker(online, folder, "abc")
    tracker.resume(0)
    logged(tracker, 1, 10)
    lost = getattr(server, how)
    lost.set()
    logged(tracker, 11, 30)
    tracker.finish(code, RESULT)
    assert wandb_file.steps(wandb_file.records(folder)) == list(range(1, 31))
    assert len(list((folder / "wandb").glob("*run-*-*"))) == 1
    lost.clear()
    sync(offline_command(caplog))
    assert steps_at(server) == list(range(1, 31))


def test_what_is_synced_twice_or_before_it_ends_is_one_history(server, folder, compose_config):
    cfg = compose_config("logger=wandb_offline", "sweep=together", "logger.system_metrics=false")
    tracker = open_tracker(cfg, folder, "abc")
    tracker.resume(0)
    logged(tracker, 1, 10)
    tracker.finish(143)
    command = "wandb sync multirun/job/wandb"
    sync(command)
    assert steps_at(server) == list(range(1, 11))
    wandb.teardown()
    tracker = open_tracker(cfg, folder, "abc")
    tracker.resume(8)
    logged(tracker, 9, 20)
    tracker.finish(0)
    for _ in range(2):
        sync(command)
        assert steps_at(server) == list(range(1, 21))
