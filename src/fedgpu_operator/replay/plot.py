"""The picture of a replay: GPUs in use, tasks waiting, fragmentation and money over time; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from fedgpu_operator.errors import ConfigurationError
from fedgpu_operator.replay.measure import Moment, Replayed, percentile

COLORS: Final = ("#0b6e99", "#d9730d", "#6b6b6b", "#8a3ffc")
"""Told apart by people with any of the common colour blindnesses, and in grey."""

STYLES: Final = ("-", "--", ":", "-.")
FORMATS: Final = (".svg", ".png")


def draw(path: Path, replays: Mapping[str, Replayed], gpus: int, title: str) -> None:
    """Write the picture; its format is that of the name.

    Raises ConfigurationError where the name ends in none of `FORMATS` or matplotlib is not installed.
    """
    if path.suffix not in FORMATS:
        raise ConfigurationError(f"--plot {path}: the name must end in {' or '.join(FORMATS)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigurationError("--plot needs matplotlib: pip install 'fedgpu-operator[plots]'") from error
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    (used, waiting), (fragmented, waits) = figure.subplots(2, 2)
    start = min(each.moments[0].at for each in replays.values())
    for (name, replayed), color, style in zip(replays.items(), COLORS, STYLES, strict=False):
        hours = [(each.at - start) / 3600 for each in replayed.moments]
        look = {"color": color, "linestyle": style, "linewidth": 1.3}
        used.step(hours, [each.used for each in replayed.moments], where="post", label=name, **look)
        waiting.step(hours, [each.waiting for each in replayed.moments], where="post", **look)
        smooth = averaged(replayed.moments)
        fragmented.plot([(at - start) / 3600 for at, _ in smooth], [100 * share for _, share in smooth], **look)
        ordered = sorted(replayed.waits)
        shares = [*range(100), 99.5, 100]
        waits.plot([percentile(ordered, share) / 60 for share in shares], shares, **look)
    used.axhline(gpus, color="#999999", linewidth=0.8)
    used.set(title="GPUs in use (line: all there are)", xlabel="hours", ylim=(0, gpus * 1.05))
    waiting.set(title="Tasks waiting", xlabel="hours", ylim=(0, None))
    fragmented.set(title="Free GPUs that the mean task cannot use, %", xlabel="hours", ylim=(0, 100))
    waits.set(title="Tasks that waited at most so long, %", xlabel="minutes", ylim=(0, 101), xlim=(0, None))
    for axes in (used, waiting, fragmented, waits):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e5e5", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=len(replays), frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)


def averaged(moments: Sequence[Moment], pieces: int = 120) -> list[tuple[float, float]]:
    """(instant, mean fragmentation around it) in so many pieces of equal length: the single steps are only noise."""
    start, end = moments[0].at, moments[-1].at
    width = max(1.0, (end - start) / pieces)
    sums = [[0.0, 0.0] for _ in range(pieces + 1)]
    for each, after in pairwise(moments):
        at: float = each.at
        while at < after.at:
            piece = int((at - start) / width)
            until = min(float(after.at), start + (piece + 1) * width)
            if until <= at:
                until = float(after.at)
            sums[min(piece, pieces)][0] += each.fragmented * (until - at)
            sums[min(piece, pieces)][1] += until - at
            at = until
    return [(start + (i + 0.5) * width, total / seconds) for i, (total, seconds) in enumerate(sums) if seconds]
