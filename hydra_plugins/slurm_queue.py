"""Which Slurm jobs have ended, for clusters without accounting (`AccountingStorageType=accounting_storage/none`)."""

import getpass
import subprocess
from typing import Any

_SECONDS = 60.0  # that `sacct` may take to answer
_FILTERS = ("SQUEUE_ACCOUNT", "SQUEUE_PARTITION", "SQUEUE_QOS", "SQUEUE_STATES")  # a user's settings that hide jobs


def has_accounting() -> bool:
    """Whether `sacct` answers: without accounting, or without that command, there is no record of jobs that ended."""
    command = ["sacct", "--noheader", "--allocations", "--starttime=now"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def watch_the_queue() -> None:
    """Let submitit find out by `squeue` which of its jobs have ended: those that the queue no longer has.

    A job that left a result succeeded; submitit looks for that first.
    """
    from submitit.slurm import slurm

    class QueueWatcher(slurm.SlurmInfoWatcher):
        def _make_command(self) -> list[str] | None:
            if not self._registered - self._finished:
                return None
            everything = ["env", *(word for name in _FILTERS for word in ("-u", name)), "squeue", "--all"]
            return [*everything, f"--user={getpass.getuser()}", "--array", "--noheader", "--format=%i"]

        def read_info(self, string: Any) -> dict[str, dict[str, str]]:
            """Return the state of each registered job, given the ids of all jobs in the queue, one per line.

            A job there counts as running in any state, as submitit takes some (CONFIGURING, SUSPENDED) for an end.
            """
            queued = set((string.decode() if isinstance(string, bytes) else string).split())
            return {job: {"JobID": job, "State": "RUNNING" if job in queued else "ENDED"} for job in self._registered}

    slurm.SlurmJob.watcher = QueueWatcher(delay_s=slurm.SlurmJob.watcher._delay_s)
