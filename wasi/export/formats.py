"""Writing a trained model in each format.

All of them carry the model's header.
"""

import errno
import io
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from wasi.errors import UserError, one_line
from wasi.models.header import METADATA_KEY, ModelHeader
from wasi.models.loading import read_state
from wasi.models.modes import without_fast_path
from wasi.models.saved import dense_state, separate
from wasi.models.weights_file import RUN

_OUTPUT = "logits"
_INPUT = "images"
_BATCH = "batch"


def write(file: Path, form: str, run: Path, model: nn.Module, header: ModelHeader) -> str:
    """Write the model of `run` to `file`; returns a short description of what the file holds.

    Args:
        form: `torch`, `onnx` or `dense`.
        model, header: as `open_model(run)` returns them.

    Raises:
        UserError: torch.export cannot trace the model.
        OSError: the file cannot be written.
    """
    if form == "dense":
        return _write_dense(file, run, header)
    program = exported_program(model, header.input.image_size)
    return _write_onnx(file, program, header) if form == "onnx" else _write_torch(file, program, header)


def exported_program(model: nn.Module, image_size: int) -> torch.export.ExportedProgram:
    """Trace the forward pass on normalised float32 images `[B, 3, S, S]` for any `B` with torch.export.

    Raises:
        UserError: torch.export cannot trace the model.
    """
    example = torch.zeros(2, 3, image_size, image_size)  # torch.export would specialise on a batch size of 1
    shapes = ({0: torch.export.Dim(_BATCH, min=1, max=2**31 - 1)},)  # torch 2.6 refuses a size without a bound
    try:
        with torch.no_grad(), without_fast_path():
            return torch.export.export(model, (example,), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many classes
        reason = one_line(error)[:200]
        raise UserError("--format", "torch or onnx", f"dense for this model (torch.export: {reason})") from error


def _write_torch(file: Path, program: torch.export.ExportedProgram, header: ModelHeader) -> str:
    content = io.BytesIO()  # on a full disk, torch would abort the process
    torch.export.save(program, content, extra_files={f"{METADATA_KEY}.json": header.to_json()})
    file.write_bytes(content.getbuffer())
    return f"torch.export of torch {torch.__version__}"


def _write_onnx(file: Path, program: torch.export.ExportedProgram, header: ModelHeader) -> str:
    """Write ONNX with the exporter's default operator set, which common runtimes support."""
    onnx = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_shapes=({0: _BATCH},),  # names the dimension, which is dynamic in the program already
    )
    assert onnx is not None  # None is returned by the older exporter alone
    onnx.model.metadata_props[METADATA_KEY] = header.to_json()
    onnx.save(file, external_data=False)
    return f"ONNX operator set {onnx.model.opset_imports['']}"


def _write_dense(file: Path, run: Path, header: ModelHeader) -> str:
    """Write dense weights under the library's names.

    Their header has another key than in a run's model, because `layers` describes the factors that this file lacks.
    """
    state = separate(dense_state(header, read_state(run, RUN)))
    try:
        save_file(state, file, {"format": "pt", "header": header.to_json()})
    except SafetensorError as error:  # a full disk, say
        raise OSError(errno.EIO, one_line(error), str(file)) from error
    return f"state dict of {header.library}'s {header.architecture}, {header.num_classes} classes"
