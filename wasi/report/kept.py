"""Recognizes kept results, the small files of `python -m wasi.results collect`.

They have the form of result.json or bench.json, with a `kind` besides. What they leave out (the ranks of each layer,
the numbers of each epoch) is missing from reports, too.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wasi.runs.folder import files_below
from wasi.runs.result import read_json

RUN, BENCH = "run", "bench"
_SECTIONS = ("config", "metrics", "provenance")
_KEYS = {"kind", "fingerprint", *_SECTIONS}


def is_kept(content: Any) -> bool:
    """Return whether the content of a JSON file is a kept result."""
    return isinstance(content, dict) and content.keys() >= _KEYS and content["kind"] in (RUN, BENCH)


def is_whole(kept: dict[str, Any]) -> bool:
    """Return whether a kept result has its sections, as a damaged file has not."""
    return all(isinstance(kept[section], dict) for section in _SECTIONS)


def kept_files(folder: Path) -> Iterator[Path]:
    """Yield the kept results at any depth below `folder`, except in W&B's own folders."""
    for path in files_below(folder, "*.json"):
        if "wandb" not in path.relative_to(folder).parts and is_kept(read_json(path)):
            yield path
