"""A folder belongs to one process at a time."""

import errno
import fcntl
import subprocess
import sys
import threading

from filelock import FileLock, SoftFileLock

from wasi.file_lock import file_lock
from wasi.runs.lock import folder_lock, is_locked

PROBE = """
import sys
from pathlib import Path
from wasi.runs.lock import folder_lock
with folder_lock(Path(sys.argv[1])) as alone:
    sys.exit(0 if alone else 3)
"""
NO_LOCKS = """
import errno, fcntl, os
def refuse(*_): raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = refuse
"""


def _another_process_gets_it(folder, script=PROBE) -> bool:
    return subprocess.run([sys.executable, "-c", script, folder], check=False).returncode == 0


def test_one_at_a_time(tmp_path):
    with folder_lock(tmp_path) as alone:
        assert alone
        assert not _another_process_gets_it(tmp_path)
    assert _another_process_gets_it(tmp_path)


def test_a_killed_process_leaves_the_folder_to_others(tmp_path):
    held = PROBE.replace("sys.exit(0 if alone else 3)", "print(alone, flush=True); sys.stdin.read()")
    command = [sys.executable, "-c", held, tmp_path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n" and is_locked(tmp_path)
    process.kill()
    process.communicate()
    assert (tmp_path / ".lock").exists() and not is_locked(tmp_path)
    with folder_lock(tmp_path) as alone:
        assert alone


def test_a_look_leaves_nothing_in_the_folder(tmp_path):
    assert not is_locked(tmp_path) and list(tmp_path.iterdir()) == []
    with folder_lock(tmp_path):
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


def test_a_look_at_the_wrong_moment_costs_nobody_the_folder(tmp_path):
    look = FileLock(tmp_path / ".lock", thread_local=False)
    look.acquire()
    threading.Timer(0.1, look.release).start()
    with folder_lock(tmp_path) as alone:
        assert alone


def test_on_a_file_system_without_locks_the_file_is_the_lock(tmp_path, monkeypatch):
    assert not isinstance(file_lock(tmp_path / ".lock"), SoftFileLock)

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert isinstance(file_lock(tmp_path / ".lock"), SoftFileLock)
    for _ in range(2):
        with folder_lock(tmp_path) as alone:
            assert alone and is_locked(tmp_path)
            assert not any(_another_process_gets_it(tmp_path, NO_LOCKS + PROBE) for _ in range(2))
        assert not is_locked(tmp_path)
    assert _another_process_gets_it(tmp_path, NO_LOCKS + PROBE)
