"""How classes are called and coloured in figures."""

import numpy as np
import pandas as pd

from mae_helpers.figures.separability import tsne_by_layer
from mae_helpers.figures.style import class_colours, class_title


def test_wordnet_ids_are_called_by_their_first_name():
    assert class_title("n02106662") == "German shepherd"
    assert class_title("n04065272") == "recreational vehicle"


def test_classes_that_share_a_name_keep_their_ids_apart():
    assert class_title("n02012849") == "crane (n02012849)"
    assert class_title("n03126707") == "crane (n03126707)"


def test_other_names_stay_as_they_are():
    assert class_title("Ankle boot") == "Ankle boot"


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
