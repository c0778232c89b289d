"""Pictures of a run: curves, histograms and grids of faces, as bytes of a PNG or SVG file.

Figures are made without pyplot, so nothing is shared between them and any thread may draw one.
"""

import io
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

Format = Literal["png", "svg"]
_SAME, _DIFFERENT = "#1b7f5c", "#c2571a"
COLOURS = (
    *("#2458a6", "#c2571a", "#1b7f5c", "#8a3ea3", "#7a6a00"),
    *("#5c5c66", "#c2336b", "#2a9db0", "#a07850", "#111111"),
)


class Curve(NamedTuple):
    """One line of a plot: `steps` [n] and `values` [n], of which those that are not finite are left out."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def loss_curves(title: str, curves: Sequence[Curve], *, form: Format = "png") -> bytes:
    """Curves over the steps of a training; a long one is drawn faint below its moving mean."""
    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
        steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
        colour, window = COLOURS[i % len(COLOURS)], len(values) // 50
        if window >= 2:
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
            # "valid" drops window - 1 points; each mean is drawn at the middle of its window.
            steps = steps[(window - 1) // 2 : len(steps) - window // 2]
            values = np.convolve(values, np.full(window, 1 / window), "valid")
        axes.plot(steps, values, color=colour, linewidth=1.6, label=curve.name, marker="." if len(steps) < 3 else "")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step", fontsize=9)
    tidy(axes)
    if curves:
        axes.legend(fontsize=8, frameon=False)
    return save(figure, form)


def cosine_histogram(
    edges: Sequence[float],
    same: Sequence[float],
    different: Sequence[float],
    *,
    title: str,
    threshold: float | None = None,
    form: Format = "png",
) -> bytes:
    """Cosines of pairs of the same and of different persons: `edges` [bins + 1], fractions of pairs [bins] each.

    `threshold`, when given, is drawn as a dashed line.
    """
    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    axes = figure.subplots()
    for bars, name, colour in ((different, "different persons", _DIFFERENT), (same, "same person", _SAME)):
        axes.stairs(np.asarray(bars) * 100, edges, fill=True, color=colour, alpha=0.55, label=name)
    if threshold is not None:
        axes.axvline(threshold, color="#333333", linewidth=1, linestyle="--", label=f"threshold {threshold:.2f}")
    used = np.flatnonzero(np.asarray(same) + np.asarray(different))
    if len(used):
        axes.set_xlim(edges[max(used[0] - 1, 0)], edges[min(used[-1] + 2, len(edges) - 1)])
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("cosine similarity", fontsize=9)
    axes.set_ylabel("% of pairs", fontsize=9)
    tidy(axes)
    axes.legend(fontsize=8, frameon=False)
    return save(figure, form)


def roc_curves(
    curves: Sequence[tuple[str, Sequence[float], Sequence[float]]], *, smallest: float, form: Format = "png"
) -> bytes:
    """Share of same pairs accepted over the share of different pairs accepted, the latter on a logarithmic axis.

    curves: (name, far [k], tar [k]), both rates in 0..1. The axis begins at `smallest`, above 0, the finest rate that
    the pairs can measure. The dotted line is a recogniser that guesses.
    """
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    axes = figure.subplots()
    for i, (name, far, tar) in enumerate(curves):
        # A stair: between two corners with false accepts in common the lower one's rate is what can be had.
        axes.step(np.maximum(far, smallest), tar, where="post", color=COLOURS[i % len(COLOURS)], label=name)
    guess = np.geomspace(smallest, 1, 100)
    axes.plot(guess, guess, color="#333333", linewidth=1, linestyle=":", label="guessing")
    axes.set(xscale="log", xlim=(smallest, 1), ylim=(0, 1.01))
    axes.set_xlabel("false accept rate", fontsize=9)
    axes.set_ylabel("true accept rate", fontsize=9)
    tidy(axes)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return save(figure, form)


def amplification(masks: np.ndarray) -> int:
    """Whole factor by which masks (float, 1 = white) can be amplified with about 1 % of values cut off."""
    reach = float(np.quantile(np.abs(masks), 0.99))
    return max(1, round(0.5 / reach)) if reach > 0 else 1


def face_grid(
    originals: np.ndarray,
    masks: np.ndarray,
    protected: np.ndarray,
    *,
    factor: float | None = None,
    names: Sequence[str] = (),
    form: Format = "png",
) -> bytes:
    """One row a person: original, mask, protected.

    originals, protected: [P, H, W, 3] uint8; masks: [P, H, W, 3] float on the unit scale, shown as 0.5 + factor * mask,
    `amplification(masks)` unless given; the column's title states the factor. `names` [P] label the rows.
    Raises ValueError when the shapes differ.
    """
    if originals.ndim != 4 or not originals.shape == masks.shape == protected.shape:
        raise ValueError(f"shapes differ: {originals.shape}, masks {masks.shape}, protected {protected.shape}")
    factor = amplification(masks) if factor is None else factor
    columns = {
        "original": originals,
        f"mask, x {factor:g}": np.clip(0.5 + factor * masks, 0, 1),
        "protected": protected,
    }
    people, height, width = originals.shape[:3]
    figure = Figure(
        figsize=(1.5 * 3 + 0.3, 1.5 * people * height / width + 0.3),
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0),
    )
    grid = figure.subplots(people, 3, squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(title, fontsize=9)
        for row in range(people):
            axes = grid[row, column]
            axes.imshow(pictures[row], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0 and names:
                axes.set_ylabel(names[row], fontsize=8)
    return save(figure, form)


def tidy(axes: Axes) -> None:
    """The look that all plots share."""
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.5)


def save(figure: Figure, form: Format) -> bytes:
    """The figure as a file's bytes, the same for the same figure."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without the date and version of the making, the same figures give the same bytes.
    metadata = {"Software": None} if form == "png" else {"Date": None}
    figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()
