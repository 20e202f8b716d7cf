"""The text tables of a benchmark sweep: times and FLOPs in one, memory and the parts of a step in another."""

from collections.abc import Callable

from wasi.bench.jobs import Baseline, baseline_key, baselines, by_block, labels
from wasi.config.files import select
from wasi.report.fields import in_turns_text, significant
from wasi.report.load import Run, threads_of

Cell = Callable[[dict, dict], str]  # (metrics, ratios) of a job -> text of a cell

LEGEND = (
    "×: baseline / this, above 1 is better, with a 95 % interval over paired rounds (from four of them on; from four",
    "runs, bench.runs, on over those); spread: standard deviation of steps within rounds | of rounds | of runs, each",
    "started anew, in % of the median; GFLOP: 2 per multiply-add; W, J: of a step, where the machine tells",
    "peak: live tensors of a whole step, in parts at that moment; RSS: the process's resident peak over its baseline",
    "with libraries and data, in the process that is timed; it adds what the allocator keeps, workspaces and code",
    "process: the resident peak since the process began; inputs: what linears in scope keep for the backward pass",
    "share of a step: decompositions, products with factors, attention, optimizer with clipping, the rest",
)


def text(jobs: list[Run]) -> str:
    """Return both tables for each model, data set and batch size, and a legend."""
    if not jobs:
        return "no benchmark job was measured"
    return "\n\n".join([*(_block(*named, members) for named, members in by_block(jobs).items()), "\n".join(LEGEND)])


def _block(model: str, dataset: str, batch: str, jobs: list[Run]) -> str:
    labelled = list(zip(labels(jobs), jobs, strict=True))
    measured = baselines(jobs)
    apart = [base for base in measured.values() if not base.is_job]
    rows: list[tuple[str, dict, dict]] = [(_with_status(base.name, base.run), base.run.metrics, {}) for base in apart]
    rows += [(_beside(_with_status(label, job), job, measured), job.metrics, job.ratio) for label, job in labelled]
    parts = {job.path: _machine(job) for job in jobs}
    shared = [part for part in _machine(jobs[0]) if all(part in other for other in parts.values())]
    heading = ", ".join([f"{model} on {dataset}, batch {batch}", *shared])
    notes = [
        f"  {label}: measured with {', '.join(own)}"
        for label, job in labelled
        if (own := [part for part in parts[job.path] if part not in shared])
    ]
    notes += [f"  {label}: {j.status}: {j.error}" for label, j in labelled if j.status != "completed"]
    notes += [
        f"  {label}: warning: {line}"
        for label, j in labelled
        for line in j.provenance.get("warnings", [])
    ]
    return "\n".join([heading, *_table(TIMES, rows), "", *_table(MEMORY, rows), *notes])


def _with_status(label: str, run: Run) -> str:
    """Return the row's label, with the status of a job that is not completed, as its numbers are not to be trusted."""
    return label if run.completed else f"{label} ({run.status})"


def _beside(label: str, job: Run, measured: dict[str, Baseline]) -> str:
    """Return the row's label, with the name of its baseline if rows have several."""
    base = measured.get(baseline_key(job) or "")
    return label if base is None or len(measured) == 1 or base.name == label else f"{label} / {base.name}"


def _machine(job: Run) -> list[str]:
    """Return the GPU or processor and the number of threads, as far as they are known."""
    where = job.provenance.get("cuda") or select(job.provenance, "machine.processor")
    return [part for part in (where, threads_of(job)) if part]


def _table(columns: dict[str, Cell], rows: list[tuple[str, dict, dict]]) -> list[str]:
    """Lay out the lines of a table, without the columns that are empty in every row."""
    cells = [[label, *(cell(metrics, ratio) for cell in columns.values())] for label, metrics, ratio in rows]
    table = [["job", *columns], *cells]
    filled = [index for index in range(len(table[0])) if any(row[index] != "-" for row in cells)]
    table = [[row[index] for index in filled] for row in table]
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in table]
    return [f"  {line}" for line in [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]]


def _value(name: str, scale: float = 1.0) -> Cell:
    return lambda metrics, _: significant(metrics[name] * scale if name in metrics else None)


def _ratio(name: str) -> Cell:
    return lambda _, ratio: in_turns_text(ratio.get(name))


def _spread(kind: str) -> Cell:
    """Return a cell "within|rounds|runs" in per cent of the median (see `spreads`).

    An unknown part is `-`; the last is left out where it is unknown, as it is with a single run.

    >>> _spread("t")({"t_spread_within": 0.012, "t_spread_runs": 0.03}, {})
    '1.2|-|3.0'
    >>> _spread("t")({"t_spread_within": 0.012, "t_spread_rounds": 0.03}, {})
    '1.2|3.0'
    """

    def cell(metrics: dict, _) -> str:
        shares = [metrics.get(f"{kind}_spread_{part}") for part in ("within", "rounds", "runs")]
        text = "|".join("-" if share is None else f"{share:.1%}"[:-1] for share in shares)
        return text.removesuffix("|-") if text != "-|-|-" else "-"

    return cell


def _share(part: str) -> Cell:
    def cell(metrics: dict, _) -> str:
        parts = {k: v for k, v in metrics.items() if k.startswith("time/breakdown_")}
        total = sum(parts.values())
        return f"{parts[f'time/breakdown_{part}_ms'] / total:.0%}" if total else "-"

    return cell


TIMES: dict[str, Cell] = {
    "step p50 ms": _value("time/train_step_ms_p50"),
    "p90": _value("time/train_step_ms_p90"),
    "spread": _spread("time/train_step_ms"),
    "speed-up": _ratio("time/train_step_ms_p50"),
    "inference p50 ms": _value("time/inference_ms_p50"),
    "speed-up ": _ratio("time/inference_ms_p50"),
    "step GFLOP": _value("flops/train_step", 1e-9),
    "GFLOP/s": _value("flops/train_achieved_gflops"),
    "inference GFLOP": _value("flops/inference", 1e-9),
    "W": _value("power/train_watts"),
    "J": _value("energy/train_step_joules"),
}
MEMORY: dict[str, Cell] = {
    "peak MiB": _value("memory/train_peak_mib"),
    "less": _ratio("memory/train_peak_mib"),
    "weights": _value("memory/train_weights_mib"),
    "grads": _value("memory/train_gradients_mib"),
    "optim": _value("memory/train_optimizer_mib"),
    "activ": _value("memory/train_activations_mib"),
    "temp": _value("memory/train_temporary_mib"),
    "inputs": _value("memory/stored_inputs_mib"),
    "RSS": _value("memory/train_rss_peak_mib"),
    "process": _value("memory/process_rss_peak_mib"),
    "infer peak": _value("memory/inference_peak_mib"),
    "decomp": _share("decomposition"),
    "factors": _share("factor_algebra"),
    "attn": _share("attention"),
    "optim ": _share("optimizer"),
    "rest": _share("rest"),
}
