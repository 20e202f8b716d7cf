"""Which Slurm jobs have ended, for clusters without accounting (`AccountingStorageType=accounting_storage/none`)."""

import subprocess
from typing import Any


def has_accounting() -> bool:
    """Whether `sacct` answers: without accounting, or without that command, there is no record of jobs that ended."""
    try:
        return subprocess.run(["sacct", "--noheader"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def watch_the_queue() -> None:
    """Let submitit find out by `squeue` which of its jobs have ended: those that the queue no longer has.

    A job that left a result succeeded; submitit looks for that first.
    """
    from submitit.slurm import slurm

    class QueueWatcher(slurm.SlurmInfoWatcher):
        def _make_command(self) -> list[str] | None:
            waiting = self._registered - self._finished
            return ["squeue", "--me", "--array", "--noheader", "--format=%i|%T"] if waiting else None

        def read_info(self, string: Any) -> dict[str, dict[str, str]]:
            """Return the state of each registered job from the lines `ID|STATE` of the queue."""
            lines = string.decode() if isinstance(string, bytes) else string
            queued = dict(line.strip().split("|") for line in lines.splitlines() if "|" in line)
            return {job: {"JobID": job, "State": queued.get(job, "ENDED")} for job in self._registered}

    slurm.SlurmJob.watcher = QueueWatcher(delay_s=slurm.SlurmJob.watcher._delay_s)
