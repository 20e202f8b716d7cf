"""What a process has imported, by Python's `-X importtime`."""

TRACED = ("-X", "importtime")
HEAVY = {"torch", "torchvision", "timm", "wandb", "matplotlib", "plotly", "scipy", "sklearn"}
_MARK = "import time:"


def without_imports(stderr: str) -> str:
    """What a process started with `TRACED` wrote beside the trace, which must not name a heavy library."""
    lines = stderr.splitlines(keepends=True)
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith(_MARK)}
    assert imported and not imported & HEAVY
    return "".join(line for line in lines if not line.startswith(_MARK))
