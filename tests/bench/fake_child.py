"""A measuring process without torch: `do` names what happens. Used through wasi.bench.children.Child."""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from wasi.bench.child import claim_stdout, die_with_parent, serve  # noqa: E402
from wasi.errors import Diverged, UserError  # noqa: E402


class Fake:
    def echo(self, **arguments):
        print("this is not the protocol")
        os.system("echo nor is this")
        return arguments

    def environment(self, name):
        return os.environ.get(name)

    def mistake(self):
        raise UserError("model.weights", "x", "y")

    def diverge(self):
        raise Diverged("training loss is nan")

    def fail(self):
        raise RuntimeError("two\nlines")

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def exits(self):
        print("could not go on", file=sys.stderr, flush=True)
        os._exit(3)

    def sleeps(self, seconds):
        import time

        time.sleep(seconds)


die_with_parent(int(sys.argv[1]))
serve(sys.stdin, claim_stdout(), Fake())
