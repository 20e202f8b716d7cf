"""`wasi COMMAND ...` runs `python -m wasi.COMMAND ...`: commands on the results of runs and sweeps."""

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import runpy
import sys

from wasi.errors import UserError, one_line
from wasi.runs.ending import print_error

_COMMANDS = {
    "report": "tables, figures and report.html from finished runs and benchmarks",
    "status": "what a sweep has done, does and has left",
    "predict": "classes of images by a finished run's model",
    "evaluate": "accuracy and loss of a finished run's model on a data set",
    "export": "a finished run's model for torch.export, ONNX, or as dense weights",
    "dashboard": "a W&B workspace and report",
    "results": "keep results in results/, and make the documents' tables from them",
}


def main() -> None:
    """Run the command that the first argument names, with the arguments after it; no other command is imported."""
    name, *rest = sys.argv[1:] or [""]
    if name in ("", "-h", "--help"):
        print(_usage())
        sys.exit(0 if name else 2)
    if name not in _COMMANDS:
        print_error(one_line(UserError("COMMAND", name, f"one of {', '.join(_COMMANDS)}")))
        sys.exit(2)
    sys.argv[1:] = rest
    runpy.run_module(f"wasi.{name}", run_name="__main__", alter_sys=True)


def _usage() -> str:
    lines = [f"  {name:<9}  {does}" for name, does in _COMMANDS.items()]
    last = "`wasi COMMAND --help` lists its options. Training: `python train.py`; benchmarks: `python bench_device.py`."
    return "\n".join(["usage: wasi COMMAND ...", "", *lines, "", last])


if __name__ == "__main__":
    main()
