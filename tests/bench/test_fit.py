"""The planner without measuring processes: what it asks, what it keeps, what it refuses."""

import csv
import json
import logging
from contextlib import contextmanager

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from tests.conftest import CONF, files_read_once
from wasi.bench import fit
from wasi.bench.children import ChildFailed
from wasi.bench.fit import Plan, check_fit, perform, plan
from wasi.errors import UserError
from wasi.measure import rss

FIT = ("experiment=fit", "model=vit_micro", "device.memory_limit_mib=900", "bench.fit.methods=[vanilla,wasi]")


@pytest.fixture
def job_config():
    with initialize_config_dir(str(CONF), version_base="1.3"), files_read_once():

        def composed(*overrides):
            cfg = compose("bench", [*FIT, *overrides], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            with open_dict(cfg):
                del cfg["hydra"]
            return cfg

        yield composed


ONE_KIND = ("bench.fit.methods=[vanilla]", "bench.fit.memory=[plain]", "bench.fit.optimizers=[sgd]")


class Processes:
    """Made-up processes: 500 MiB at rest, one MiB of live tensors and 1 ms per image."""

    def __init__(self, really: float = 600.0):
        self.really, self.loaded, self.asked = really, [], []

    @contextmanager
    def start(self, role, log, environment):
        yield self

    def ask(self, do, **arguments):
        self.asked.append(do)
        if do == "load":
            self.loaded.append(arguments["config"])
        if do == "predict":
            return {"rows": list(self.rows(**arguments["asked"])), "left_out": [], "model_mib": 7.0, "images": 100}
        return {"held": 500.0, "rss_peak": {"baseline": 500.0, "peak": self.really, "total": self.really}}.get(
            do, [1.0, 2.0, 3.0]
        )

    def quickest_is_largest(self):
        """From now on a larger batch takes less time, so that it is tried first."""
        rows = self.rows
        self.rows = lambda **asked: ({**row, "step_ms": 100.0 - row["batch_size"]} for row in rows(**asked))

    def rows(self, optimizers, memory, batch_sizes, spare_mib, **_):
        for name in optimizers:
            for policy in memory:
                for size in batch_sizes:
                    time = {"step_ms": float(size)} if size <= spare_mib else {}
                    row = {"optimizer": name, "memory": policy, "batch_size": size, "live_mib": float(size)}
                    row["resident_mib"] = float(size)
                    yield {**row, "optimizer_state_mib": 0.0, **time}


@pytest.fixture
def processes(monkeypatch):
    made = Processes()
    monkeypatch.setattr(fit, "Child", made.start)
    return made


def test_every_combination_is_told_and_the_fastest_measured(job_config, processes, tmp_path, capsys):
    cfg = job_config("bench.fit.batch_sizes=[8,64,512]", "bench.fit.optimizers=[sgd]")
    assert perform(cfg, tmp_path, plan).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "fit.csv").open()))
    assert len(rows) == (1 + 2) * 2 * 3  # vanilla, wasi at two thresholds; two policies; three batch sizes
    assert {row["fits"] for row in rows if row["batch_size"] == "512"} == {"False"}
    epochs = [float(row["epoch_seconds"]) for row in rows if row["fits"] == "True"]
    assert epochs == sorted(epochs) and len(epochs) == 12
    measured = [row for row in rows if row["measured"] == "True"]
    assert [(row["process_mib"], row["step_ms"], row["predicted_step_ms"]) for row in measured] == [
        ("600.0", "2.0", measured[0]["batch_size"] + ".0")
    ]
    content = json.loads((tmp_path / "fit.json").read_text())
    assert content["status"] == "completed" and content["limit_mib"] == 900 and len(content["rows"]) == len(rows)
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG") and (tmp_path / "fit.svg").is_file()
    assert "vit_micro in 900 MiB: 12 of 18 combinations fit, 1 confirmed by measurement" in capsys.readouterr().out


def test_what_is_measured_above_the_limit_does_not_fit(job_config, processes, tmp_path):
    processes.really = 901.0
    found = Plan(job_config("bench.fit.batch_sizes=[8]"), tmp_path)
    plan(found.cfg, found)
    measured = [row for row in found.rows if row["measured"]]
    assert len(measured) == 3 and not any(row["fits"] for row in found.rows)  # three are tried for one that fits


def test_what_one_takes_above_its_prediction_is_expected_of_the_others(job_config, processes, tmp_path, caplog):
    """Processes that all take 310 MiB more: the quickest does not fit, so one like it is not tried, but a smaller."""
    ask = processes.ask

    def more_than_predicted(do, **arguments):
        if do != "rss_peak":
            return ask(do, **arguments)
        processes.asked.append(do)
        total = 500.0 + processes.loaded[-1]["dataset"]["batch_size"] + 310.0
        return {"baseline": 500.0, "peak": total, "total": total}

    processes.ask = more_than_predicted
    found = Plan(job_config("bench.fit.batch_sizes=[64,95,99]", *ONE_KIND), tmp_path)
    processes.quickest_is_largest()
    plan(found.cfg, found)
    output = [(row["batch_size"], row["process_mib"], row["measured"], row["fits"]) for row in found.rows]
    assert output == [(64, 874.0, True, True), (95, 905.0, False, False), (99, 909.0, True, False)]
    assert "1 of 3 combinations fit, 1 confirmed" in found.table(found.rows)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_others_took_rules_out_none_that_is_measured_to_fit(job_config, processes, tmp_path):
    """The quick one takes far more than predicted, and the small one does not."""
    ask = processes.ask

    def much_at_first(do, **arguments):
        large = processes.loaded and processes.loaded[-1]["dataset"]["batch_size"] > 8
        processes.really = 950.0 if large else 600.0
        return ask(do, **arguments)

    processes.ask = much_at_first
    found = Plan(job_config("bench.fit.batch_sizes=[8,99]", *ONE_KIND), tmp_path)
    processes.quickest_is_largest()
    plan(found.cfg, found)
    assert [(row["measured"], row["fits"]) for row in found.rows] == [(True, True), (True, False)]


def test_that_nothing_is_confirmed_is_told(job_config, processes, tmp_path, caplog):
    processes.really = 901.0
    found = Plan(job_config("bench.fit.batch_sizes=[8]", "bench.fit.methods=[vanilla]"), tmp_path)
    plan(found.cfg, found)
    assert "nothing that fits is confirmed by measurement: 3 were tried, which took up to 393 MiB more" in caplog.text
    assert "0 of" in found.table(found.rows)


@pytest.mark.parametrize(("status", "fit"), [("failed", False), ("diverged", True)])
def test_one_that_dies_when_it_is_measured_is_told_and_the_next_is_measured(
    status, fit, job_config, processes, tmp_path, monkeypatch, caplog
):
    ask = processes.ask

    def dies_at_the_first(do, **arguments):
        if do == "rss_peak" and "rss_peak" not in processes.asked:
            processes.asked.append(do)
            raise ChildFailed(status, "the measuring process was killed by SIGKILL")
        return ask(do, **arguments)

    monkeypatch.setattr(processes, "ask", dies_at_the_first)
    found = Plan(job_config("bench.fit.batch_sizes=[8]"), tmp_path)
    plan(found.cfg, found)
    assert "could not be measured: the measuring process was killed by SIGKILL" in caplog.text
    assert sum(row["measured"] for row in found.rows) == 1 and all(row["fits"] for row in found.rows) == fit


def test_models_are_built_small_and_measured_as_they_would_be_trained(job_config, processes, tmp_path):
    found = Plan(job_config("bench.fit.batch_sizes=[8]", "bench.fit.memory=[lean]"), tmp_path)
    plan(found.cfg, found)
    *looked_at, measured = processes.loaded
    assert [config["method"].get("weight_epsilon") for config in looked_at] == [None, 0.6, 0.8]
    assert {config["model"]["weights"] for config in looked_at} == {"random"}  # of the surrogate's known spectrum
    assert measured["model"]["weights"] == "surrogate" and measured["method"]["scope"] == "all"
    assert (measured["train"]["memory"], measured["train"]["chunk_size"]) == ("lean", 4)
    assert measured["dataset"]["batch_size"] == 8


def test_without_a_limit_it_is_the_machines_memory(job_config, processes, tmp_path, monkeypatch):
    monkeypatch.setattr(fit.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 1234 * rss.MIB}))
    assert Plan(job_config("device.memory_limit_mib=null"), tmp_path).limit == 1234


def test_a_model_whose_process_dies_is_left_out(job_config, processes, tmp_path, monkeypatch, caplog):
    rows = processes.rows

    def dies_at_vanilla(**asked):
        if asked["epsilon"] is None:
            raise ChildFailed("failed", "the measuring process was killed by SIGKILL")
        return rows(**asked)

    monkeypatch.setattr(processes, "rows", dies_at_vanilla)
    assert perform(job_config("bench.fit.batch_sizes=[8]"), tmp_path, plan).exit_code == 0
    assert "vanilla is left out: the measuring process was killed" in caplog.text
    assert {row["method"] for row in json.loads((tmp_path / "fit.json").read_text())["rows"]} == {"wasi"}


def test_what_was_found_before_a_death_is_kept(job_config, processes, tmp_path, capsys):
    def dies(cfg, found):
        plan(cfg, found)
        raise ChildFailed("failed", "the measuring process was killed by SIGKILL")

    assert perform(job_config("bench.fit.batch_sizes=[8]"), tmp_path, dies).exit_code == 1
    assert json.loads((tmp_path / "fit.json").read_text())["status"] == "failed"
    assert capsys.readouterr().out.startswith("failed before all was looked at: ")


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("methods", "[vanila]"),
        ("epsilons", "[1.5]"),
        ("optimizers", "[adam]"),
        ("batch_sizes", "[0]"),
        ("memory", "[thin]"),
        ("scope", "heads"),
        ("resident", "0.5"),
        ("check", "-1"),
    ],
)
def test_refused(job_config, option, given):
    with pytest.raises(UserError, match=rf"bench\.fit\.{option}="):
        check_fit(job_config(f"bench.fit.{option}={given}").bench.fit)


def test_a_configuration_without_its_device_is_refused_in_one_line(job_config, processes, tmp_path, capsys):
    cfg = job_config()
    with open_dict(cfg):
        del cfg["device"]
    assert perform(cfg, tmp_path, plan).exit_code == 2
    assert "device" in (output := capsys.readouterr().err) and output.count("\n") == 1


def test_unknown_options_are_refused(job_config):
    with pytest.raises(UserError, match=r"bench\.fit\.threshold=1: allowed is one of methods"):
        check_fit(job_config("+bench.fit.threshold=1").bench.fit)


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("method=lora", "methods"),
        ("method.scope=mlp", "methods"),
        ("rank=eps_0.4", "epsilons"),
        ("optimizer.lr=1", "optimizers"),
        ("dataset.batch_size=4", "batch_sizes"),
        ("train.memory=lean", "memory"),
        ("train.chunk_size=2", "memory"),
    ],
)
def test_what_the_rows_choose_themselves_is_refused(word, instead, job_config, processes, tmp_path, capsys):
    ending = perform(job_config(word), tmp_path, plan)
    assert ending.exit_code == 2 and f"bench.fit.{instead}" in ending.error
    assert processes.asked == [] and not (tmp_path / "fit.json").exists()


@pytest.mark.parametrize("word", ["bench.rounds=9", "bench.baseline=nope", "logger=wandb_offline"])
def test_what_only_a_benchmark_does_is_refused(word, job_config, processes, tmp_path):
    ending = perform(job_config(word), tmp_path, plan)
    output = f"{word}: allowed is without experiment=fit, whose options are bench.fit.OPTION"
    assert ending.exit_code == 2 and ending.error == output
    assert processes.asked == []
