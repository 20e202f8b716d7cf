"""The command `python -m wasi.export RUN [--format torch|onnx|dense] [--output FILE]`."""

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import argparse
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

from wasi.atomic import remove_leftovers, replacing_from_folder
from wasi.errors import UserError
from wasi.models.weights_file import RUN, run_header, weights_path
from wasi.output_file import check_output_file
from wasi.runs.command import run_cli
from wasi.runs.ending import print_error
from wasi.runs.folder import check_working_folder, path_of

_NAMES = {"torch": "model.pt2", "onnx": "model.onnx", "dense": "dense.safetensors"}
_NEEDS = {"onnx": ("onnx", "onnxruntime", "onnxscript")}


def main() -> int:
    options = _parser().parse_args()
    check_working_folder()
    run, form = options.run, options.format
    run_header(run)  # refuses a wrong RUN before the slow import of torch
    folder = weights_path(run).parent
    output = options.output or folder / _NAMES[form]
    _check_packages(form)
    _check_output(output, run, form)
    for path in {output, *(folder / name for name in _NAMES.values())}:
        remove_leftovers(path)
    from wasi.export.check import Deviates, compare
    from wasi.export.formats import write
    from wasi.models.saved import open_model

    warnings.simplefilter("ignore")  # the exporters warn about their own internals
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model, header = open_model(run)
    try:
        with replacing_from_folder(output) as temporary:
            description = write(temporary, form, run, model, header)
            found = compare(temporary, form, model, header)
    except Deviates as error:
        print_error(f"{output} is not written: {error}")
        return 1
    print(f"{output}: {description}, {output.stat().st_size / 2**20:.2f} MiB")
    print(f"largest difference of logits {found.difference:.1e} (logits up to {found.largest:.2f})")
    print(f"latency of one image {found.exported_ms:.2f} ms (this package's model: {found.trained_ms:.2f} ms)")
    return 0


def _check_packages(form: str) -> None:
    if missing := [name for name in _NEEDS.get(form, ()) if find_spec(name) is None]:
        allowed = f"torch or dense without {', '.join(missing)} (python -m pip install -r requirements-export.txt)"
        raise UserError("--format", form, allowed)


def _check_output(output: Path, run: Path, form: str) -> None:
    check_output_file("--output", output)
    meant = {Path(name).suffix: other for other, name in _NAMES.items()}.get(output.suffix.lower(), form)
    if meant != form:
        raise UserError("--output", output, f"a name without {output.suffix} for --format {form}, or --format {meant}")
    if output.resolve() == weights_path(run).resolve():
        raise UserError("--output", output, "another file than the run's model itself")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wasi.export",
        description="A finished run's model for use without this package. Factored layers stay two thin matrices "
        "in torch and onnx; dense multiplies them. The file is checked against the trained model before it is "
        "put in place.",
    )
    a_run = "a finished run's folder, or its model.safetensors"
    parser.add_argument("run", metavar="RUN", type=path_of(RUN), help=a_run)
    parser.add_argument(
        "--format",
        choices=tuple(_NAMES),
        default="torch",
        help="torch (the default): a torch.export program; onnx: with any batch size; dense: for timm or torchvision",
    )
    names = ", ".join(_NAMES.values())
    default = f"by default in the run's folder: {names}"
    parser.add_argument("--output", type=path_of("--output"), metavar="FILE", help=default)
    return parser


if __name__ == "__main__":
    run_cli(main)
