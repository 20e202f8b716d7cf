"""The dashboard's specification against the library's own models, and its upload against a stand-in server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ws = pytest.importorskip("wandb_workspaces.workspaces")
wr = pytest.importorskip("wandb_workspaces.reports.v2")

import wandb  # noqa: E402
from wandb_workspaces.reports.v2.interface import UnknownBlock, UnknownPanel  # noqa: E402
from wandb_workspaces.reports.v2.internal import ReportViewspec  # noqa: E402
from wandb_workspaces.workspaces.internal import View  # noqa: E402

from tests.tracking import wandb_file  # noqa: E402
from tests.tracking.wandb_server import KEY, served  # noqa: E402
from wasi.config.files import select  # noqa: E402
from wasi.dashboard.panels import table_columns  # noqa: E402
from wasi.dashboard.specification import specification, title_of  # noqa: E402
from wasi.dashboard.upload import upload  # noqa: E402
from wasi.errors import UserError  # noqa: E402
from wasi.report.columns import COSTS, ENERGY, FLOPS, INFERENCE, PEAK, PROCESS, STEP  # noqa: E402
from wasi.report.page import render  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = 9
BREAKDOWN = ("decomposition", "factor_algebra", "attention", "optimizer", "rest")


@pytest.fixture
def without_login(tmp_path, monkeypatch):
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def server(without_login, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with served() as answering:
        monkeypatch.setenv("WANDB_BASE_URL", answering.address)
        yield answering


def command(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "wasi.dashboard", *words]
    environment = {"HOME": str(cwd), "NETRC": str(cwd / "netrc"), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    environment |= variables
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def grids(report: wr.Report) -> list:
    return [block for block in report.blocks if isinstance(block, wr.PanelGrid)]


def test_the_specification_is_read_back_by_the_library_as_it_was(without_login):
    spec = specification("someone", "vits", "together")
    view = View.model_validate(spec["workspace"])
    workspace = ws.Workspace._from_model(view)
    assert (workspace.entity, workspace.project, workspace.name) == ("someone", "vits", "WASI: together")
    saved = spec["report"] | {"spec": json.dumps(spec["report"]["spec"])}
    report = wr.Report._from_model(ReportViewspec.model_validate(saved))
    assert len({section.name for section in workspace.sections}) == len(workspace.sections) == SECTIONS
    assert not any(isinstance(panel, UnknownPanel) for section in workspace.sections for panel in section.panels)
    assert not any(isinstance(block, UnknownBlock) for block in report.blocks)
    of_workspace = [[type(panel) for panel in section.panels] for section in workspace.sections]
    assert [[type(panel) for panel in grid.panels] for grid in grids(report)] == of_workspace
    scatters = [panel for panel in workspace.sections[0].panels]
    wanted = [(cost.metric, "test/acc") for cost in (PEAK, PROCESS, STEP, INFERENCE, FLOPS)]
    assert [(panel.x.name, panel.y.name) for panel in scatters] == wanted


def test_the_sections_are_those_of_the_page_in_its_order(without_login):
    names = [section["name"] for section in sections_of(specification("someone", "vits", "together"))]
    assert len(render._SECTIONS) + 1 == SECTIONS and names == [
        "Accuracy against cost", "Where memory goes", "Where a step's time goes", "Time against epsilon",
        "Predicted against measured savings", "Ranks of every layer", "Are ranks and subspaces stable?",
        "Loss and accuracy while training", "Thresholds",
    ]  # fmt: skip


def test_titles_are_words_with_the_units_of_what_wandb_stores(without_login):
    """W&B shows a metric as it is in result.json, FLOPs undivided."""
    titles = [panel["config"].get("chartTitle") for panel in panels_of(specification("someone", "vits", "together"))]
    named = [title for title in titles if title]
    assert len(set(named)) == len(named) > 20
    assert not any(re.search(r"/train|_p50|_mib|_peak|test/|GFLOP|10⁶", title) for title in named)
    assert "Test accuracy against work of a training step (FLOP)" in named
    assert "Peak memory of a training step (MiB)" in named and "Time of inference (ms) against epsilon" in named


def test_the_papers_figures_are_there_and_a_steps_time_by_part(without_login):
    shown_there = [panel["config"] for panel in panels_of(specification("someone", "vits", "together"))]
    scatters = {(config.get("xAxis"), config.get("yAxis")) for config in shown_there}
    epsilon = "config:thresholds.value.epsilon"
    assert {(epsilon, "summary:time/train_step_ms_p50"), (epsilon, "summary:time/inference_ms_p50")} <= scatters
    for start in ("summary:", "summary:ratio/"):
        assert (f"{start}memory/paper_train_mib", f"{start}memory/train_peak_mib") in scatters
        assert (f"{start}flops/train_step", f"{start}time/train_step_ms_p50") in scatters
    assert [f"time/breakdown_{part}_ms" for part in BREAKDOWN] in [config.get("metrics") for config in shown_there]


def test_the_table_has_the_columns_of_the_projects_report(without_login):
    spec = specification("someone", "vits", "together")
    feed = spec["workspace"]["spec"]["section"]["runSets"][0]["runFeed"]
    wanted = {"config:method.value.name", "summary:test/acc", *(f"summary:{cost.metric}" for cost in COSTS)}
    assert wanted <= set(table_columns()) <= set(feed["columnPinned"])


def run_sets_of_report(spec: dict) -> list[dict]:
    blocks = spec["report"]["spec"]["blocks"]
    return [run_set for block in blocks for run_set in block.get("metadata", {}).get("runSets", [])]


def sections_of(spec: dict) -> list[dict]:
    return spec["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]


def panels_of(spec: dict) -> list[dict]:
    return [panel for section in sections_of(spec) for panel in section["panels"]]


def test_only_runs_that_differ_by_seed_are_averaged(without_login):
    spec = specification("someone", "vits", "together")
    by_row = [{"section": "config", "name": "row.value"}]
    assert [runs["grouping"] for runs in run_sets_of_report(spec)] == [by_row] * SECTIONS
    averaged = [panel["config"] for panel in panels_of(spec) if "groupAgg" in panel["config"]]
    assert len(averaged) > 5 and {config["groupBy"] for config in averaged} == {"row.value"}
    assert {config["limit"] for config in averaged} == {100}  # not the 10 that W&B draws otherwise
    scatters = [panel["config"] for panel in panels_of(spec) if panel["viewType"] == "Scatter Plot"]
    assert {config["legendTemplate"] for config in scatters} == {"${config:row}"}


def test_no_column_is_of_thresholds_that_a_method_may_not_read(without_login):
    spec = specification("someone", "vits", "together")
    (parallel,) = (panel["config"] for panel in panels_of(spec) if panel["viewType"] == "Parallel Coordinates Plot")
    accessors = {*table_columns(), *(column["accessor"] for column in parallel["columns"])}
    thresholds = {"config:thresholds.value.weights", "config:thresholds.value.activations"}
    assert thresholds <= accessors and not any("rank" in accessor for accessor in accessors)


def test_only_the_sweep_is_shown(without_login):
    def filters(spec: dict) -> list:
        runs = spec["workspace"]["spec"]["section"]["runSets"] + run_sets_of_report(spec)
        return [run_set["filters"]["filters"] for run_set in runs]

    by_group = [{"key": {"section": "run", "name": "group"}, "op": "=", "value": "it's", "disabled": False}]
    found = filters(specification("someone", "vits", "it's"))
    assert len(found) == 1 + SECTIONS and all(one == by_group for one in found)
    assert all(one == [] for one in filters(specification("someone", "vits", None)))


def shown(spec: dict) -> tuple[set[str], set[str], set[str]]:
    """Metrics, options and regular expressions that the workspace's panels and columns refer to."""
    section = spec["workspace"]["spec"]["section"]
    feed = section["runSets"][0]["runFeed"]
    accessors = {column for column in feed["columnPinned"] if not column.startswith("run:")}
    metrics, regexes = set(), set()
    for panel in panels_of(spec):
        config = panel["config"]
        accessors |= {config[axis] for axis in ("xAxis", "yAxis") if ":" in config.get(axis, "")}
        accessors |= {column["accessor"] for column in config.get("columns", ())}
        accessors |= {f"config:{config['groupBy']}"} if "groupBy" in config else set()
        metrics |= {config["xAxis"]} if ":" not in config.get("xAxis", ":") else set()
        metrics |= {*config.get("metrics", ()), *config.get("mediaKeys", ())}
        if panel["viewType"] == "Weave":
            metrics |= set(re.findall(r'"val": "([^"]*)"', json.dumps(config)))
        regexes |= {config["metricRegex"]} if "metricRegex" in config else set()
    kinds = {kind: {word for word in accessors if word.startswith(f"{kind}:")} for kind in ("config", "summary")}
    assert kinds["config"] | kinds["summary"] == accessors
    metrics |= {word.removeprefix("summary:") for word in kinds["summary"]}
    options = {re.sub(r"config:(\w+)\.value", r"\1", word) for word in kinds["config"]}
    return metrics, options, regexes


def records_of(script: str, folder: Path, *words: str) -> list:
    """The W&B records of a small run of `train.py` or `bench_device.py`, offline."""
    small = ["model=vit_micro", "model.weights=random", "dataset=digits", "dataset.train_size=32"]
    small += ["dataset.val_size=16", "dataset.test_size=16", "dataset.batch_size=16"]
    small += ["device=cpu", "device.num_threads=1", "logger=wandb_offline", "hydra.run.dir=run"]
    line = [sys.executable, str(ROOT / script), *small, *words]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return wandb_file.records(folder / "run")


@pytest.fixture(scope="module")
def a_run(tmp_path_factory) -> list:
    return records_of("train.py", tmp_path_factory.mktemp("run"), "train.epochs=1", "train.monitor=true")


@pytest.fixture(scope="module")
def a_benchmark(tmp_path_factory) -> list:
    words = ("bench.warmup=1", "bench.min_count=2", "bench.min_seconds=0", "bench.rounds=1")
    return records_of("bench_device.py", tmp_path_factory.mktemp("bench"), *words)


def names_of(found: list) -> set[str]:
    """The names in history and summary of a run's records."""
    logged = {key for row in wandb_file.history(found) for key in row}
    for record in wandb_file.of_type(found, "summary"):
        logged |= set(wandb_file.items(record.update))
    return {key.removesuffix("/_type") for key in logged}  # images and tables are told of part by part


def test_what_panels_show_is_what_runs_and_benchmarks_log(a_run, a_benchmark, without_login):
    """A panel of a name that neither logs would stay empty."""
    metrics, options, regexes = shown(specification("someone", "vits", "together"))
    names = names_of(a_run)
    of_benchmarks = {metric for metric in metrics if metric.startswith(("ratio/", "time/breakdown_"))}
    assert len(of_benchmarks) == 9 and len(metrics) > 30
    assert metrics - names == {*of_benchmarks, ENERGY.metric}  # the latter where the device tells it
    assert of_benchmarks <= names_of(a_benchmark)
    config = {item.key: json.loads(item.value_json) for item in wandb_file.run_of(a_run).config.update}
    assert "method.name" in options and {key for key in options if select(config, key) is None} == set()
    assert regexes and all(any(re.fullmatch(regex, name) for name in names) for regex in regexes)


def test_a_second_call_replaces_what_the_first_made(server):
    first = upload(None, "wasi", "together")
    assert sorted(view["type"] for view in server.views) == ["project-view", "runs"]
    assert all(view["displayName"] == title_of("together") for view in server.views)
    second = upload(None, "wasi", "together")
    assert first == second and len(server.views) == 2
    assert all(address.startswith(server.address) for address in first)
    upload(None, "wasi", "another")
    assert len(server.views) == 4


def test_without_a_login_one_line(without_login):
    with pytest.raises(UserError, match="not logged in to W&B: run `wandb login`"):
        upload(None, "wasi", None)


def test_a_login_without_a_default_entity_needs_one(server, monkeypatch):
    monkeypatch.setattr(wandb.Api, "default_entity", None)
    with pytest.raises(UserError, match="^--entity=(null|None): allowed is a user or team"):
        upload(None, "wasi", None)
    assert upload("someone", "wasi", None) and server.views


def test_a_server_out_of_reach_is_one_line(without_login, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="--project=") as error:
        upload("someone", "wasi", None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WANDB_API_KEY", "short", "--project=wasi: allowed is .*: WANDB_API_KEY invalid: "),
        ("WANDB_BASE_URL", "garbage", "WANDB_BASE_URL=garbage: allowed is what W&B accepts there"),
    ],
)
def test_a_variable_of_wandb_that_cannot_be_is_one_line(variable, value, message, without_login, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=f"^{message}"):
        upload(None, "wasi", None)


def test_the_sweeps_own_report_stands_first_in_the_report(tmp_path):
    own = "# Report\n\n## vit on digits\n\n| Δ vanilla |\n| ---: |\n| +0.1 |\n\n![Figure](a.png)\n\nin /home/a/s\n"
    (tmp_path / "report.md").write_text(own, encoding="utf-8")
    done = command("--dry-run", "spec.json", "--report", "report.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    blocks = json.loads((tmp_path / "spec.json").read_text())["report"]["spec"]["blocks"]
    kinds = [block["type"] for block in blocks]
    assert kinds.index("markdown-block") < kinds.index("panel-grid")
    shown_text = blocks[kinds.index("markdown-block")]["content"]
    assert shown_text == "## vit on digits\n\n| Δ vanilla |\n| ---: |\n| +0.1 |\n\nin s\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("nowhere.md", "No such file or directory"), (".", "Is a directory"), ("binary.md", "it is not text in UTF-8")],
)
def test_a_report_that_cannot_be_read_is_refused_by_its_option(tmp_path, name, reason):
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe")
    done = command("--dry-run", "spec.json", "--report", name, cwd=tmp_path)
    message = f"error: --report={name}: allowed is the report.md of a sweep's folder ({reason})\n"
    assert (done.returncode, done.stderr) == (2, message) and not (tmp_path / "spec.json").exists()


def test_the_command_writes_the_specification_and_refuses_in_one_line(tmp_path):
    done = command("--project", "vits", "--group", "s", "--dry-run", "spec.json", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "written to spec.json\n")
    assert set(json.loads((tmp_path / "spec.json").read_text())) == {"workspace", "report"}
    done = command("--project", "vits", "--dry-run", ".", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: --dry-run=.: allowed is a file in a folder that ")
    done = command("--project", "vits", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = command("--project", "team/vits", "--dry-run", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: --project=team/vits: allowed is a name of at most ")


@pytest.mark.parametrize("mode", ["offline", "foo"])
def test_a_dashboard_is_made_online_only(mode, tmp_path):
    done = command("--project", "vits", cwd=tmp_path, WANDB_MODE=mode)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: WANDB_MODE={mode}: allowed is online")
    assert command("--project", "vits", "--dry-run", cwd=tmp_path, WANDB_MODE=mode).returncode == 0
