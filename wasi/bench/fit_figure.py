"""The figure of `experiment=fit`: memory against time per epoch of all timed combinations, and the memory limit."""

import matplotlib
from matplotlib.figure import Figure

from wasi.report.figures import DPI, WIDTH_INCHES, images
from wasi.report.style import SETTINGS, styles


def draw(rows: list[dict], limit_mib: float, model: str) -> dict[str, bytes]:
    """Draw the rows of a `Plan` that have a time; returns the figure's bytes as `png` and as `svg`.

    Each method has a colour and a marker, filled for `train.memory=plain` and hollow for `lean`; markers of measured
    rows are larger.
    """
    timed = [row for row in rows if "epoch_seconds" in row]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    looks = dict(zip(methods, styles(methods), strict=True))
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, 3.8), dpi=DPI, layout="constrained")
        ax = figure.subplots()
        for row in timed:
            look = looks[row["method"]]
            face = look.colour if row["memory"] == "plain" else "white"
            size = 9 if row["measured"] else 5
            ax.plot(
                row["process_mib"], row["epoch_seconds"], look.marker,
                color=look.colour, markerfacecolor=face, markersize=size, alpha=0.8,
            )  # fmt: skip
        for method in methods:
            ax.plot([], [], looks[method].marker, color=looks[method].colour, label=method)
        ax.axvline(limit_mib, color="#444444", linestyle="--", linewidth=1.0, label=f"limit, {limit_mib:.0f} MiB")
        if timed:
            ax.set_yscale("log")
        ax.set_xlabel("peak of the whole process, MiB")
        ax.set_ylabel("seconds per epoch")
        ax.set_title(f"{model}: filled plain, hollow lean, large measured", fontsize=9)
        figure.legend(loc="outside lower center", ncols=3)
        return images(figure)
