"""What the model card shows: recipes, histories and measured accuracies of the bundled models."""

import json
from dataclasses import dataclass

import pandas as pd
from safetensors import safe_open

from mae_helpers.encoder.weights import WEIGHTS

FLOORS = {  # what the demo's models should reach on the test images before they are called well trained
    "fine-tuned MAE, top-1": ("mae_finetuned_top1_percent", 92.0),
    "supervised ViT, top-1": ("vit_supervised_top1_percent", 90.0),
    "linear probe on the pretrained MAE's best layer": ("probe_percent", 82.0),
}


@dataclass(frozen=True)
class Card:
    """The files beside the weights, read: training history, evaluation, accuracy by class."""

    history: pd.DataFrame
    evaluation: dict
    per_class: pd.DataFrame
    metadata: dict[str, dict]

    @property
    def probe(self) -> pd.DataFrame:
        """Linear-probe accuracy by layer: model, layer, top1_percent."""
        percent = self.evaluation["probe_percent_by_layer"]
        return pd.DataFrame({"model": "mae_pretrained", "layer": range(1, len(percent) + 1), "top1_percent": percent})

    def recipes(self) -> pd.DataFrame:
        """The recipe stored in each checkpoint, the hours that the stage took, and on what."""
        columns = {}
        for stage, rows in self.history.groupby("stage", sort=False):
            hours, device = round(rows["seconds"].sum() / 3600, 2), rows["device"].iloc[0]
            columns[stage] = json.loads(self.metadata[stage]["recipe"]) | {"hours": hours, "device": device}
            if "top1_percent" in rows:
                watched = ", ".join(f"{value:.1f}" for value in rows["top1_percent"].dropna())
                columns[stage]["top-1 after each epoch (%)"] = watched or "none"
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """One sentence on the training as a whole."""
        hours, epochs = self.history["seconds"].sum() / 3600, self.history.groupby("stage", sort=False)["epoch"].max()
        return (
            f"**Trained for {hours:.1f} hours by the clock, interruptions included, on {self.history['device'].iloc[0]}; "
            f"passes over the training images: {', '.join(f'{stage} {count:.0f}' for stage, count in epochs.items())}.**"
        )

    def floors(self) -> str:
        """Measured accuracies beside the floors that a well-trained demo should reach, as a Markdown table."""
        measured = self.evaluation | {"probe_percent": max(self.evaluation["probe_percent_by_layer"])}
        rows = [
            f"| {name} | {measured[key]:.1f} % | {floor:.0f} % | {'yes' if measured[key] >= floor else 'no'} |"
            for name, (key, floor) in FLOORS.items()
        ]
        head = f"On the first {measured['test_images']:,} of the 10,000 test images:"
        note = f"The probe was fitted on the first {measured['probe_images']:,} training images."
        return "\n".join([head, "", "| | measured | floor | reached |", "|---|---|---|---|", *rows, "", note])


def load_card() -> Card:
    """Read the files that training and evaluation left beside the bundled weights."""
    metadata = {}
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            metadata[file.metadata()["stage"]] = file.metadata()
    history, per_class = (pd.read_csv(WEIGHTS / f"{name}.csv") for name in ("history", "per_class"))
    return Card(history, json.loads((WEIGHTS / "evaluation.json").read_text()), per_class, metadata)
