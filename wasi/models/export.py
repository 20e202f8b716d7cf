"""`python -m wasi.models.export RUN_DIR`: make vit_micro's shipped weights from a finished run."""

import os
import sys
from pathlib import Path

from wasi.errors import UserError
from wasi.models.micro import IMAGE_SIZE, SHIPPED_WEIGHTS, vit_micro


def export(run_dir: Path, target: Path = SHIPPED_WEIGHTS) -> Path:
    """Write `run_dir/model.safetensors` without its head, in float16, to `target` (atomically).

    Raises UserError for a folder without a finished vit_micro of dense weights.
    """
    import torch
    from safetensors.torch import save_file

    from wasi.models.loading import load_file
    from wasi.models.wasi_models import adapt, head_prefixes

    source = Path(run_dir) / "model.safetensors"
    if not source.is_file():
        raise UserError("RUN_DIR", run_dir, "the folder of a completed run (it has no model.safetensors)")
    model = vit_micro(IMAGE_SIZE, num_classes=1)
    load_file(model, source, head_prefixes(model), adapt)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(head_prefixes(model))}
    half = {key: value.to(torch.float16).contiguous() for key, value in state.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(f".{os.getpid()}.tmp")
    save_file(half, unfinished, metadata={"format": "pt"})
    os.replace(unfinished, target)
    return target


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m wasi.models.export RUN_DIR", file=sys.stderr)
        return 2
    try:
        target = export(Path(arguments[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{target} ({target.stat().st_size / 2**20:.2f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
