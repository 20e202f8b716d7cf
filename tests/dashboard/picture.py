"""`python -m tests.dashboard.picture SWEEP PICTURE` makes docs/wandb.png: the dashboard's panels of an offline sweep.

Not W&B's own drawing, for which there is no server here: the panels of the specification, in its order and under its
titles, with the numbers that are in the runs' W&B files.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from wasi.config.declared import appearance
from wasi.dashboard.specification import specification
from wasi.report.options import epsilon_label
from wasi.tracking.categories import MEMORY, TIME, memory_metric, time_metric

_DASHES = ("-", "--", ":")
_PARTS = {memory_metric(part): of for part, of in MEMORY.items()} | {time_metric(part): of for part, of in TIME.items()}


def runs_of(sweep: Path) -> list[dict]:
    """Name, config, summary and history of every offline run below a sweep's folder."""
    found = []
    for path in sorted(sweep.rglob("offline-run-*/run-*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path.resolve())]
        lines = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=True).stdout
        run: dict = {"history": [], "summary": {}}
        for record in map(json.loads, lines.splitlines()):
            content = record.get(record["type"]) or {}
            if record["type"] == "run":
                run |= {"name": content["display_name"], "config": content["config"]["update"]}
            elif record["type"] == "history":
                run["history"].append(content["item"])
            elif record["type"] == "summary":
                run["summary"] |= content.get("update", {})
        found.append(run)
    return found


def value(run: dict, accessor: str):
    """Of `summary:METRIC`, `config:SECTION.value.OPTION` or the name of a metric."""
    if ":" not in accessor:
        return run["summary"].get(accessor)
    kind, _, key = accessor.partition(":")
    if kind == "summary":
        return run["summary"].get(key)
    section, _, option = key.partition(".value.")
    return run["config"].get(section, {}).get(option)


def label(run: dict) -> str:
    kind = "bench" if run["config"]["row"].endswith("-bench") else None
    return " ".join(filter(None, [run["config"]["method"]["name"], epsilon_label(run["config"]), kind]))


def colour(run: dict) -> str:
    return appearance(run["config"]["method"]["name"]).colour


def has_all(run: dict, panel: dict) -> bool:
    """Whether the run has every number of a scatter plot, every part of a bar or a line's history."""
    config = panel["config"]
    if panel["viewType"] == "Run History Line Plot":
        return any(config["metrics"][0] in row for row in run["history"])
    wanted = config.get("metrics") or [config["xAxis"], config["yAxis"]]
    return all(value(run, accessor) is not None for accessor in wanted)


def draw(axes, panel: dict, runs: list[dict]) -> None:
    config, kind = panel["config"], panel["viewType"]
    axes.set_title(textwrap.fill(config["chartTitle"], 44), fontsize=7)
    axes.tick_params(labelsize=6, which="both")
    runs = [run for run in runs if has_all(run, panel)]
    if kind == "Scatter Plot":
        for place, run in enumerate(runs):
            x, y = value(run, config["xAxis"]), value(run, config["yAxis"])
            axes.plot(x, y, "o", color=colour(run))
            beside = (3, 3 if place % 2 else -9)
            axes.annotate(label(run), (x, y), textcoords="offset points", xytext=beside, fontsize=6)
        axes.set_xscale("log" if config.get("xAxisLogScale") else "linear")
        axes.set_yscale("log" if config.get("yAxisLogScale") else "linear")
        axes.margins(0.25)
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            axis.set_major_formatter("{x:g}")
            if axis.get_scale() == "log":  # labels of a whole decade's marks would overlap
                axis.set_minor_formatter("{x:g}" if high < 5 * low else NullFormatter())
    elif kind == "Run History Line Plot":
        for place, run in enumerate(runs):
            points = [(row[config["xAxis"]], row[config["metrics"][0]]) for row in run["history"]
                      if config["metrics"][0] in row]  # fmt: skip
            dashes = _DASHES[[colour(other) for other in runs[:place]].count(colour(run)) % len(_DASHES)]
            axes.plot(*zip(*points, strict=True), dashes, color=colour(run), label=label(run), linewidth=1)
        axes.set_xlabel(config["xAxisTitle"], fontsize=6)
        axes.legend(fontsize=6, frameon=False)
    else:
        metrics = config["metrics"]
        left = [0.0] * len(runs)
        for metric in metrics:
            values = [value(run, metric) for run in runs]
            of = _PARTS.get(metric)
            colours = list(map(colour, runs)) if of is None else of.colour
            axes.barh(list(map(label, runs)), values, left=left, color=colours, label=of and of.label)
            left = [a + b for a, b in zip(left, values, strict=True)]
        axes.invert_yaxis()
        if len(metrics) > 1:
            axes.set_ylim(len(runs) - 0.4, -1.5)  # leaves the legend room above the bars
            axes.legend(fontsize=5, frameon=False, ncols=3, loc="upper center")


def main(sweep: Path, picture: Path) -> None:
    runs = runs_of(sweep)
    wanted = ("Scatter Plot", "Run History Line Plot", "Bar Chart")
    spec = specification("", "wasi", sweep.name)["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    rows = [(section["name"], [p for p in section["panels"] if p["viewType"] in wanted][:4]) for section in spec[:5]]
    figure = Figure(figsize=(13, 11), layout="constrained")
    parts = figure.subfigures(len(rows), 1)
    figure.suptitle(f"WASI: {sweep.name} (drawn from the specification and offline runs, not by W&B)", fontsize=10)
    for part, (name, panels) in zip(parts, rows, strict=True):
        part.suptitle(name, fontsize=9, x=0.01, ha="left", fontweight="bold")
        for axes, panel in zip(part.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes, panel, runs)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
