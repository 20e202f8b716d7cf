"""What a process has imported: by Python's `-X importtime`, or asked in a fork of one that has train.py's imports."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TRACED = ("-X", "importtime")
HEAVY = {"torch", "torchvision", "timm", "wandb", "matplotlib", "plotly", "scipy", "sklearn"}
_MARK = "import time:"
_FORKING = f"""
import atexit, json, os, runpy, sys, traceback
sys.path.insert(0, {str(ROOT)!r})
import train
from hydra import compose, initialize_config_dir
from hydra.core.singleton import Singleton
before = Singleton.get_state()
with initialize_config_dir({str(ROOT / "conf")!r}, version_base="1.3"):
    compose("config")  # the first one builds parsers, which takes half a second
Singleton.set_state(before)
for line in sys.stdin:
    words, folder, streams, script = json.loads(line)
    if (child := os.fork()) == 0:
        try:
            os.chdir(folder)
            for number, name in enumerate(streams):
                os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), number)
            sys.argv = [script, *words]
            atexit.register(lambda: print(*sys.modules, sep="\\n", file=open(streams[1] + ".modules", "w")))
            runpy.run_path(script, run_name="__main__")
        except BaseException:
            traceback.print_exc()
        os._exit(99)  # train.py ends the process itself
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def without_imports(stderr: str) -> str:
    """What a process started with `TRACED` wrote beside the trace, which must not name a heavy library."""
    lines = stderr.splitlines(keepends=True)
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith(_MARK)}
    assert imported and not imported & HEAVY
    return "".join(line for line in lines if not line.startswith(_MARK))


@contextmanager
def forking(files: Path) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """`run(*words, cwd=FOLDER)`: train.py in a fork of a process that has imported it, which must import nothing heavy.

    What it prints lies in the folder `files` for a while.
    """
    streams = ["/dev/null", str(files / "out"), str(files / "err")]
    command = [sys.executable, "-c", _FORKING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def run(*words: str, cwd: Path) -> subprocess.CompletedProcess:
            for name in (*streams[1:], f"{streams[1]}.modules"):
                Path(name).unlink(missing_ok=True)
            script = str(ROOT / "train.py")
            process.stdin.write(json.dumps([words, str(cwd), streams, script]) + "\n")
            process.stdin.flush()
            status = process.stdout.readline()
            assert status, "the process that forks has died"
            imported = set(Path(f"{streams[1]}.modules").read_text().split())
            assert "train" in imported and not imported & HEAVY
            out, err = (Path(name).read_text() for name in streams[1:])
            return subprocess.CompletedProcess([script, *words], int(status), out, err)

        yield run
        process.stdin.close()
