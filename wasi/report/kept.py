"""Reads kept results, the small files of `python -m wasi.results collect`, in the form of result.json and bench.json.

What a kept file leaves out (the ranks of each layer, the numbers of each epoch) is missing there too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasi.report.options import row_name
from wasi.runs.result import read_result

SCHEMA_VERSION = 1
RUN, BENCH = "run", "bench"
_SECTIONS = ("shared", "config", "metrics", "provenance")
_KEYS = {"kind", "row", "seed", "fingerprint", *_SECTIONS}


def is_kept(content: Any) -> bool:
    """Whether the content of a JSON file is a kept result."""
    return isinstance(content, dict) and content.keys() >= _KEYS and content["kind"] in (RUN, BENCH)


def is_whole(kept: Mapping[str, Any]) -> bool:
    """Whether a kept result has its sections, as a damaged file has not."""
    return all(isinstance(kept[section], dict) for section in _SECTIONS)


def kept_files(folder: Path) -> Iterator[Path]:
    """The kept results at any depth below `folder`, except in W&B's own folders."""
    for path in folder.rglob("*.json"):
        if "wandb" not in path.relative_to(folder).parts and is_kept(read_result(path.parent, path.name)):
            yield path


@dataclass(frozen=True)
class KeptFolder:
    """What the kept results of one folder say about one another.

    `baseline` is the file that describes the baseline of all benchmarks, which only give its name; None without one.
    `have_recipes` is whether row names are recipes: some row has another name than the one that its options give.
    """

    have_recipes: bool
    baseline: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> "KeptFolder":
        contents = [read_result(folder, path.name) for path in sorted(folder.glob("*.json"))]
        results = [content for content in contents if content is not None and is_kept(content) and is_whole(content)]
        named = {result["baseline"] for result in results if result.get("baseline")}
        baseline = next((result for result in results if {result["row"]} == named), None)
        return cls(any(result["row"] != row_name(_config(result)) for result in results), baseline)


def as_result(kept: Mapping[str, Any], folder: KeptFolder) -> dict[str, Any]:
    """A kept result of `folder` in the form of result.json or, for a benchmark, of bench.json."""
    baseline = folder.baseline
    config = _config(kept)
    if folder.have_recipes:
        config["recipe"] = kept["row"]
    if folder.have_recipes and baseline is not None:
        config["bench"] = {"baseline_recipe": baseline["row"]}
    result = {"status": "completed", "config": config, "metrics": kept["metrics"]}
    result |= {"fingerprint": kept["fingerprint"], "provenance": _provenance(kept)}
    if kept["kind"] == RUN:
        return result
    result |= {"environment": result["provenance"], "ratio": kept.get("ratio")}
    if baseline is not None and baseline["row"] == kept.get("baseline"):
        result["baseline"] = {"config": _config(baseline), "metrics": _baseline_metrics(kept)}
    elif beside := kept.get("baseline_config"):
        config = _config({**kept, "config": beside})
        named = {"recipe": kept["baseline"]} if folder.have_recipes else {}
        result["baseline"] = {"config": config | named, "metrics": _baseline_metrics(kept)}
    return result


def _config(kept: Mapping[str, Any]) -> dict[str, Any]:
    """The part of the configuration that is kept, nested as in result.json."""
    config: dict[str, Any] = {"seed": kept["seed"], "device": {"name": kept["provenance"].get("device") or "cpu"}}
    for key, value in {**kept["shared"], **kept["config"]}.items():
        *sections, option = key.split(".")
        node = config
        for section in sections:
            node = node.setdefault(section, {})
        node[option] = value
    return config


def _provenance(kept: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(kept["provenance"])
    machine = {key: found.pop(key) for key in ("processor", "architecture") if key in found}
    threads = {"torch": found.pop("threads", None)}
    return found | {"machine": machine, "threads": threads}


def breakdown_of(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of the metrics that are the parts of a profiled step."""
    return {name: value for name, value in metrics.items() if name.startswith("time/breakdown_")}


def _baseline_metrics(kept: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a benchmark's baseline: times are its samples' medians, the parts of its step are kept, and all
    else follows from the ratios."""
    found = {}
    for name, bounds in (kept.get("ratio") or {}).items():
        if name in kept["metrics"] and not name.startswith("time/"):
            found[name] = bounds["p50"] * kept["metrics"][name]
    for kind, times in (kept.get("samples") or {}).get("baseline", {}).items():
        found[f"{kind}_p50"] = times["p50"]
    return found | _baseline_breakdown(kept)


def _baseline_breakdown(kept: Mapping[str, Any]) -> dict[str, float]:
    """The parts of the baseline's step; {} if they are not all known.

    Files of earlier releases do not have them. Each is this row's part times the ratio of the two, which is exact as
    both sides were profiled once. A part that takes no time in this row has no ratio.
    """
    if known := kept.get("baseline_breakdown"):
        return known
    ours, ratio = breakdown_of(kept["metrics"]), kept.get("ratio") or {}
    return {name: ratio[name]["p50"] * ms for name, ms in ours.items()} if ours.keys() <= ratio.keys() else {}
