"""bench.json files as a sweep leaves them, made up."""

import json


def metrics(step_ms: float, inference_ms: float, peak: float) -> dict:
    parts = {"weights": 0.3, "gradients": 0.1, "optimizer": 0.0, "activations": 0.5, "temporary": 0.1}
    return {
        **{f"memory/train_{part}_mib": share * peak for part, share in parts.items()},
        "memory/train_peak_mib": peak,
        "memory/train_rss_peak_mib": peak * 1.1,
        "memory/process_rss_peak_mib": peak * 2,
        "memory/stored_inputs_mib": peak * 0.4,
        "memory/inference_peak_mib": peak / 3,
        "time/train_step_ms_p50": step_ms,
        "time/train_step_ms_p90": step_ms * 1.2,
        "time/train_step_ms_iqr": step_ms * 0.01,
        "time/inference_ms_p50": inference_ms,
        "time/inference_ms_p90": inference_ms * 1.1,
        "time/inference_ms_iqr": inference_ms * 0.01,
        "flops/train_step": 3_000_000_000,
        "flops/train_achieved_gflops": 3000 / step_ms,
        "time/breakdown_decomposition_ms": 0.1 * step_ms,
        "time/breakdown_factor_algebra_ms": 0.3 * step_ms,
        "time/breakdown_attention_ms": 0.05 * step_ms,
        "time/breakdown_optimizer_ms": 0.05 * step_ms,
        "time/breakdown_rest_ms": 0.5 * step_ms,
    }


def config(method: str, epsilon: float | None = None, **changes) -> dict:
    own = (
        {}
        if epsilon is None
        else {"weight_epsilon": epsilon, "activations": {"selection": "epsilon", "epsilon": epsilon}}
    )
    base = {
        "model": {"name": "vit_b_32", "weights": "surrogate"},
        "dataset": {"name": "synthetic", "batch_size": 32},
        "method": {"name": method, "scope": "all", **own},
        "rank": {"weight_epsilon": epsilon or 0.8},
        "train": {"memory": "plain", "epochs": 50},
        "bench": {"baseline": "vanilla"},
        "seed": 0,
    }
    for key, value in changes.items():
        section, option = key.split("__")
        base[section][option] = value
    return base


def content(
    configuration: dict, ours: dict, base: dict | None, status: str = "completed", error: str | None = None
) -> dict:
    baseline = None if base is None else {"config": config("vanilla"), "metrics": base}
    names = [] if base is None else [name for name in ours if name.endswith(("_p50", "peak_mib"))]
    ratio = {name: {"p50": base[name] / ours[name]} for name in names}
    for name, r in ratio.items():
        r["low"], r["high"] = (0.9 * r["p50"], 1.1 * r["p50"]) if name.startswith("time") else (r["p50"], r["p50"])
    return {
        "schema_version": 1,
        "status": status,
        "error": error,
        "config": configuration,
        "metrics": ours,
        "baseline": baseline,
        "ratio": ratio,
        "samples": {},
        "provenance": {"machine": {"processor": "Cortex-A76"}, "threads": {"torch": 4}, "warnings": []},
    }


def write_sweep(folder, contents: list[dict]) -> None:
    for number, one in enumerate(contents):
        (folder / f"job{number}").mkdir()
        (folder / f"job{number}" / "bench.json").write_text(json.dumps(one))
