"""The model card says what its files say, and whether the floors were reached."""

import json

import pandas as pd
import pytest

from mae_helpers.demo.card import Card, load_card


@pytest.fixture
def card():
    stages = {"stage": ["pretrain", "pretrain", "finetune"], "epoch": [0.5, 1.0, 1.0], "loss": [0.9, 0.8, 0.5]}
    history = pd.DataFrame(stages | {"seconds": [1800, 1800, 3600], "device": "cpu"})
    top1 = {"mae_finetuned_top1_percent": 92.0, "vit_supervised_top1_percent": 89.9}
    evaluation = {"test_images": 10000, "probe_images": 5000, "probe_percent_by_layer": [70.0, 83.0, 81.0]} | top1
    recipe = {"recipe": json.dumps({"epochs": 1, "kept": 0.25})}
    return Card(history, evaluation, pd.DataFrame(), {"pretrain": recipe, "finetune": recipe})


def test_floors_are_compared_with_what_was_measured(card):
    rows = [line for line in card.floors().splitlines() if "%" in line]
    assert [line.split("|")[-2].strip() for line in rows] == ["yes", "no", "yes"]
    assert "83.0 %" in rows[2]
    assert "first 10,000 of the 10,000 test images" in card.floors()


def test_hours_and_passes_are_those_of_the_history(card):
    assert "2.0 hours" in card.summary()
    assert "pretrain 1, finetune 1" in card.summary()
    assert card.recipes().loc["hours"].tolist() == [1.0, 1.0]
    assert card.recipes().loc["kept"].tolist() == [0.25, 0.25]


def test_probe_counts_layers_from_one(card):
    assert card.probe["layer"].tolist() == [1, 2, 3]


def test_the_bundled_card_is_complete():
    bundled = load_card()
    assert set(bundled.metadata) == set(bundled.history["stage"]) == {"pretrain", "finetune", "supervised"}
    assert bundled.evaluation["test_images"] >= 1000
    assert len(bundled.probe) == 12
    assert set(bundled.per_class["model"]) == {"mae_finetuned", "vit_supervised"}
