"""The plots of the ablations: Fig. 3b, 3c, 3d, 4a and 4b of the paper, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from advcloak_jax.evaluation.figures import COLOURS, Format, save, tidy
from advcloak_jax.evaluation.tables import Estimate

MARKERS = "osD^vP*X<>"


class Line(NamedTuple):
    """One method: estimates over x, both [n]."""

    name: str
    x: Sequence[float]
    y: Sequence[Estimate]


class Panel(NamedTuple):
    """One plot beside others. level: a named horizontal line, such as the unprotected rate."""

    x_label: str
    y_label: str
    lines: Sequence[Line]
    level: tuple[str, float] | None = None


def panels(parts: Sequence[Panel], *, form: Format = "png") -> bytes:
    """Lines with their intervals as bands, one panel beside the other, one legend for all."""
    figure = Figure(figsize=(4.4 * len(parts), 4.2), layout="constrained")
    grid = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, part in zip(grid, parts, strict=True):
        for i, line in enumerate(part.lines):
            values = np.asarray(line.y, float)
            axes.fill_between(line.x, values[:, 1], values[:, 2], color=_colour(i), alpha=0.12, linewidth=0)
            axes.plot(line.x, values[:, 0], color=_colour(i), marker=_marker(i), markersize=4, label=line.name)
        if part.level is not None:
            axes.axhline(part.level[1], color="#333333", linewidth=1, linestyle=":", label=part.level[0])
        axes.set_xlabel(part.x_label, fontsize=9)
        axes.set_ylabel(part.y_label, fontsize=9)
        tidy(axes)
    handles, labels = grid[0].get_legend_handles_labels()
    _legend(figure, handles, labels)
    return save(figure, form)


def bars(
    groups: Sequence[str], series: Mapping[str, Sequence[Estimate]], *, y_label: str, form: Format = "png"
) -> bytes:
    """A bar per group for each series, with its interval: series -> [len(groups)] estimates."""
    figure = Figure(figsize=(max(4.4, 1.3 * len(groups)), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for i, (name, estimates) in enumerate(series.items()):
        values = np.asarray(estimates, float)
        place = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        reach = np.abs(values[:, 1:].T - values[:, 0])
        axes.bar(place, values[:, 0], width, yerr=reach, color=_colour(i), alpha=0.8, capsize=2, label=name)
    axes.set_xticks(range(len(groups)), [_wrapped(name) for name in groups])
    axes.set_ylabel(y_label, fontsize=9)
    tidy(axes)
    _legend(figure, *axes.get_legend_handles_labels())
    return save(figure, form)


def boxes(values: Mapping[str, Sequence[float]], *, y_label: str, form: Format = "png") -> bytes:
    """A box per name over its values, with every value as a point."""
    figure = Figure(figsize=(max(4.4, 1.3 * len(values)), 3.4), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(list(values.values()), widths=0.5, showfliers=False, medianprops={"color": "#333333"})
    for i, (name, own) in enumerate(values.items()):
        axes.plot(np.full(len(own), i + 1), own, "o", color=_colour(i), markersize=4, alpha=0.7, label=name)
    axes.axhline(0, color="#333333", linewidth=1, linestyle=":")
    axes.set_xticks(range(1, len(values) + 1), [_wrapped(name) for name in values])
    axes.set_ylabel(y_label, fontsize=9)
    tidy(axes)
    return save(figure, form)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Below the plots, in as many columns as fit beside each other: matplotlib cuts what is too wide."""
    points = 8
    inches = 0.6 + max(map(len, labels)) * 0.62 * points / 72
    columns = max(1, int(figure.get_figwidth() / inches))
    figure.legend(handles, labels, fontsize=points, frameon=False, loc="outside lower center", ncols=columns)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _marker(i: int) -> str:
    return MARKERS[i % len(MARKERS)]


def _wrapped(name: str) -> str:
    return name.replace(" (", "\n(").replace(", ", ",\n")
