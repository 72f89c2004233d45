"""How classes are called and coloured in figures."""

import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mae_helpers.figures import style
from mae_helpers.figures.separability import tsne_by_layer
from mae_helpers.figures.style import class_colours, class_title, panels
from mae_helpers.figures.subspaces import angle_boxes, control_curves


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("n02106662", "German shepherd"),  # the first of WordNet's names
        ("n04065272", "recreational vehicle"),
        ("n02012849", "crane (n02012849)"),  # two classes share it
        ("n03126707", "crane (n03126707)"),
        ("Ankle boot", "Ankle boot"),
    ],
)
def test_classes_are_called_in_words(name, title):
    assert class_title(name) == title


def test_every_class_has_a_colour_of_its_own():
    for count in (3, 10, 11, 40):
        names = [f"class {number}" for number in range(count)]
        colours = class_colours(names)
        assert list(colours) == names
        assert len(set(colours.values())) == count


def test_a_map_of_many_classes_has_one_legend_for_all():
    classes = [f"n{number:08d}" for number in range(13)]
    points = pd.DataFrame({"class": classes * 2, "layer": np.repeat([1, 2], 13), "x": range(26), "y": range(26)})
    figure = tsne_by_layer(points)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == classes


@pytest.mark.slow
def test_figures_are_drawn_without_torch():
    """Every module of the room is imported anew, in a process of its own."""
    modules = [f"mae_helpers.figures.{path.stem}" for path in Path(style.__file__).parent.glob("*.py")]
    code = f"import sys, {', '.join(modules)}; assert not {{'torch', 'timm'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code.replace(".__init__", "")], check=True)


def test_panels_that_share_an_axis_hold_the_values_of_all():
    rows = [("between_classes", layer, angle) for layer in (1, 2) for angle in (10.0, 20.0, 60.0)]
    low = pd.DataFrame(rows, columns=["control", "layer", "theta1_deg"])
    high = low.assign(theta1_deg=low["theta1_deg"] + 25)
    for draw in (lambda table, ax: angle_boxes(table, ax, "", "red"), lambda table, ax: control_curves(table, ax, "")):
        _, axes = panels(2, 2, sharey=True)
        for ax, table in zip(axes, (low, high), strict=True):
            draw(table, ax)
        drawn = np.concatenate([line.get_ydata() for line in axes[1].lines]).max()
        assert all(ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > drawn for ax in axes)
        plt.close("all")
