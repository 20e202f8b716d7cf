"""`python -m scripts.ship_vit_micro RUN`: write the weights of vit_micro that ship with the project, from a run."""

import sys
from pathlib import Path

from wasi import file_names
from wasi.atomic import replacing_from_folder
from wasi.errors import UserError
from wasi.models.micro import IMAGE_SIZE, SHIPPED_WEIGHTS, vit_micro
from wasi.runs.command import run_cli


def ship(run: Path, target: Path = SHIPPED_WEIGHTS) -> Path:
    """Write the run's model without its head, in float16, to `target` atomically, and return `target`.

    Raises:
        UserError: the folder has no model of a completed run, or it is not a vit_micro of dense weights.
    """
    import torch
    from safetensors.torch import save_file

    from wasi.models.loading import load_file
    from wasi.models.wasi_models import adapt, head_prefixes

    source = Path(run) / file_names.MODEL
    if not source.is_file():
        raise UserError("RUN", run, f"the folder of a completed run (it has no {file_names.MODEL})")
    model = vit_micro(IMAGE_SIZE, num_classes=1)
    load_file(model, source, head_prefixes(model), adapt)
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(head_prefixes(model))}
    half = {key: value.to(torch.float16).contiguous() for key, value in state.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_from_folder(target) as temporary:
        save_file(half, temporary, metadata={"format": "pt"})
    return target


def main() -> None:
    if len(sys.argv) != 2:
        raise UserError("RUN", " ".join(sys.argv[1:]), "one folder: python -m scripts.ship_vit_micro RUN")
    target = ship(Path(sys.argv[1]))
    print(f"{target} ({target.stat().st_size / 2**20:.2f} MiB)")


if __name__ == "__main__":
    run_cli(main)
