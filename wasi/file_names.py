"""Names of the files that runs, benchmarks, sweeps and reports write into their folders."""

import re

RESULT, BENCH = "result.json", "bench.json"  # of a run, of a benchmark
RESULTS = (RESULT, BENCH)
MODEL = "model.safetensors"
CHECKPOINT, CHECKPOINT_BEFORE = "checkpoint.pt", "checkpoint_before.pt"  # the second is used if the first is damaged
CHECKPOINTS = (CHECKPOINT, CHECKPOINT_BEFORE)
BEST = "best.pt"  # weights of the best epoch so far (train.select=best)
MONITOR = "monitor.csv"  # train.monitor=true
PERPLEXITY = "perplexity.json"  # rank.activation_selection=perplexity
FIT, FIT_TABLE = "fit.json", "fit.csv"  # experiment=fit
LOCK = ".lock"

SWEEP, TUNING, FAIL_FAST = "sweep.json", "tuning.json", "fail_fast.json"
MULTIRUN, JOURNAL = "multirun.yaml", "optuna.journal"  # of every sweep, by Hydra; of a search
BENCH_TABLE = "bench.csv"
PAGE, REPORT, REPORT_RUNS, REPORT_GROUPS = "report.html", "report.md", "report.csv", "report_groups.csv"

_NAMES = {
    *(RESULT, BENCH, MODEL, *CHECKPOINTS, BEST, MONITOR, PERPLEXITY, FIT, FIT_TABLE, LOCK),
    *(SWEEP, TUNING, FAIL_FAST, MULTIRUN, JOURNAL, BENCH_TABLE, PAGE, REPORT, REPORT_RUNS, REPORT_GROUPS),
}
_LOG_OR_FIGURE = re.compile(r".*\.(log|png|svg)")


def is_written(name: str) -> bool:
    """Return whether a run, a benchmark, a sweep or a report writes a file of this name.

    >>> [is_written(name) for name in ("result.json", "train.log", "mine.json")]
    [True, True, False]
    """
    return name in _NAMES or _LOG_OR_FIGURE.fullmatch(name) is not None
