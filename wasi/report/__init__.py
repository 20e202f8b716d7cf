"""Tables and figures from finished runs: `python -m wasi.report DIR [DIR ...] [--into DIR]`."""
