"""Error handling for downloads of pretrained weights: failures become one-line messages, quickly."""

import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from wasi.errors import UserError

TIMEOUT_S = 10


@contextmanager
def download(model: str, source: str) -> Iterator[None]:
    """Turn any exception raised inside into a UserError that names the model and the source of the download."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the classes differ between libraries and their versions
        reason = str(getattr(error, "reason", None) or error).strip()
        first_line = reason.splitlines()[0] if reason else type(error).__name__
        allowed = (
            "the path of a local .safetensors file, random or surrogate here: "
            f"the weights of {model} could not be downloaded from {source} ({first_line})"
        )
        raise UserError("model.weights", "pretrained", allowed) from error


def is_in_torchs_cache(url: str) -> bool:
    """Return whether torch.hub, with which torchvision and timm download from a URL, has the file already."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(urllib.parse.urlparse(url).path).name).is_file()


def require_reachable(url: str) -> None:
    """Raise OSError within `TIMEOUT_S` if the host of `url` cannot be reached; the libraries would retry for a minute.

    Proxies of the environment are used.
    """
    request = urllib.request.Request(url, method="HEAD")
    with suppress(urllib.error.HTTPError):  # any answer shows that the host can be reached
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
