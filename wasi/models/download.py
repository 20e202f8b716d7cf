"""Published weights from the network, or one clear line when they cannot be had."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wasi.errors import UserError

TIMEOUT_S = 10


@contextmanager
def download(model: str, source: str) -> Iterator[None]:
    """Turns whatever a downloader raises inside into a UserError that names the model and where it looked."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each library, and each of its versions, raises classes of its own
        raise cannot_download(model, source, error) from error


def require_reachable(url: str) -> None:
    """Fail within seconds where there is no network: the libraries retry for a minute. Proxies are honoured."""
    request = urllib.request.Request(url, method="HEAD")
    with suppress(urllib.error.HTTPError):  # an answer, whatever it says
        urllib.request.urlopen(request, timeout=TIMEOUT_S).close()


def cannot_download(model: str, source: str, error: Exception) -> UserError:
    reason = str(getattr(error, "reason", None) or error).strip()
    first_line = reason.splitlines()[0] if reason else type(error).__name__
    allowed = (
        "the path of a local .safetensors file, random or surrogate here: "
        f"the weights of {model} could not be downloaded from {source} ({first_line})"
    )
    return UserError("model.weights", "pretrained", allowed)
