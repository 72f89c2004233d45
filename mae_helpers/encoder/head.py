"""A linear head for an encoder without one: logistic regression on standardised tokens of the last layer."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn


class LinearHead(nn.Module):
    """Scores W (t - mean) / deviation + b of a token t, (B, D) -> (B, largest label + 1); -inf where there is no class.

    t is the CLS token after the model's last norm, or the mean of the patch tokens: `token` is `cls` or `mean_patch`.
    """

    def __init__(self, token: str, state: dict[str, Tensor]):
        super().__init__()
        self.token = token
        for name in ("mean", "deviation", "weight", "bias", "classes"):
            self.register_buffer(name, state[name])

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(self.classes.max()) + 1

    def forward(self, tokens: Tensor, prefix: int) -> Tensor:
        """Scores of normed tokens (B, P + N, D), P = `prefix`."""
        chosen = tokens[:, 0] if self.token == "cls" else tokens[:, prefix:].mean(1)  # [image, feature]
        known = (chosen - self.mean) / self.deviation @ self.weight.T + self.bias  # [image, class that was fitted]
        return known.new_full((len(known), self.num_classes), -torch.inf).index_copy(1, self.classes, known)


def fitted(token: str, features: np.ndarray, labels: np.ndarray) -> LinearHead:
    """The head of features (images, D) with labels (images,): scikit-learn's logistic regression, L2 with C = 1.

    ValueError where there are not two classes, or images without a label (-1).
    """
    if len(np.unique(labels)) < 2 or labels.min() < 0:
        raise ValueError("a head needs images with labels, of two classes or more; use a folder a class")
    scaler = StandardScaler().fit(features.astype(np.float64))
    regression = LogisticRegression(max_iter=2000).fit(scaler.transform(features), labels)
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes scikit-learn gives the second one's scores, against 0 for the first
        weight, bias = np.vstack([0 * weight, weight]), np.append(0 * bias, bias)
    parts = {"mean": scaler.mean_, "deviation": scaler.scale_, "weight": weight, "bias": bias}
    state = {name: torch.from_numpy(np.float32(part)) for name, part in parts.items()}
    return LinearHead(token, state | {"classes": torch.from_numpy(regression.classes_.astype(np.int64))})


def untrained(width: int, labels: np.ndarray, seed: int) -> LinearHead:
    """A head with random weights for mean patch tokens (D = `width`): the control's, which knows nothing of the classes."""
    classes = torch.from_numpy(np.unique(labels).astype(np.int64))
    weight = torch.randn(len(classes), width, generator=torch.Generator().manual_seed(seed))
    state = {"mean": torch.zeros(width), "deviation": torch.ones(width), "weight": weight}
    return LinearHead("mean_patch", state | {"bias": torch.zeros(len(classes)), "classes": classes})
