"""The script that draws the figures: Vega, Vega-Lite and vega-embed in one, as vl-convert-python contains them."""

import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from wasi.atomic import atomic_write_text


def library() -> str:
    """The text for a script element. It takes seconds to put together, so it is cached for the next page.

    Raises:
        ImportError: vl-convert-python is not installed.
    """
    import vl_convert

    kept = _cache() / f"vega-{version('vl-convert-python')}.js"
    try:
        return kept.read_text(encoding="utf-8")
    except OSError:
        bundle = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub leaves out the snippet's default
        script = bundle.replace("</script", "<\\/script")
    with suppress(OSError):  # without a cache where the folder cannot be written
        kept.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(kept, script)
    return script


def _cache() -> Path:
    """The user's cache folder by the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wasi"
