"""Plots of ablations: the same bytes for the same figures, in both formats, with every name in them."""

import io
from collections.abc import Callable

import pytest
from matplotlib.figure import Figure
from PIL import Image

from advcloak_jax.evaluation.ablation_figures import Line, Panel, _legend, bars, boxes, panels
from advcloak_jax.evaluation.tables import Estimate

ESTIMATES = [Estimate(10.0 * i, 10.0 * i - 2, 10.0 * i + 3) for i in range(1, 4)]
LINES = [Line("AdvCloak", [1, 2, 3], ESTIMATES), Line("OPOM", [1, 2, 3], ESTIMATES[::-1])]


@pytest.mark.parametrize(
    ("draw", "names"),
    [
        (
            lambda form: panels([Panel("photos", "rate", LINES, ("Unprotected", 5.0))] * 2, form=form),
            ["photos", "OPOM"],
        ),
        (
            lambda form: bars(["x", "y", "z"], {"with": ESTIMATES, "without": ESTIMATES}, y_label="rate", form=form),
            ["with"],
        ),
        (lambda form: boxes({"IST": [1.0, 2.0], "PST": [3.0, 4.0]}, y_label="points", form=form), ["points"]),
    ],
)
def test_a_plot_is_whole_and_the_same_again(draw: Callable[[str], bytes], names: list[str]) -> None:
    png = draw("png")
    assert png == draw("png")
    assert min(Image.open(io.BytesIO(png)).size) > 300
    svg = draw("svg").decode()
    # Text is drawn as paths, and each is named in a comment.
    for name in names:
        assert f"<!-- {name} -->" in svg


@pytest.mark.parametrize("width", [4.4, 8.8])
@pytest.mark.parametrize("name", ["FIM", "AdvCloak-ConvexHull", "Hybrid (AdvCloak) (a source model of a long name)"])
def test_no_name_is_cut_off(width: float, name: str) -> None:
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    handles = [figure.subplots().plot([0, 1], [0, i])[0] for i in range(7)]
    _legend(figure, handles, [name] * len(handles))
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
