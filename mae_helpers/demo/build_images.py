"""Rebuild the demo's 500 images: `python -m mae_helpers.demo.build_images [folder of Fashion-MNIST]`.

The first 50 images of each class of the test split, class by class, stored without compression so that the same
images give the same bytes, and so the same SHA-256, everywhere.
"""

import hashlib
import sys
from io import BytesIO

import numpy as np

from mae_helpers.demo.data import load_split
from mae_helpers.images.sets import DEMO_FILE, DEMO_SHA256
from mae_helpers.profile.files import write_whole

PER_CLASS = 50


def select(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The first 50 of each class: `images` (500, 28, 28), `labels` (500,), `index` (500,) in the split."""
    index = np.concatenate([np.flatnonzero(labels == label)[:PER_CLASS] for label in range(10)]).astype(np.int32)
    return {"images": images[index], "labels": labels[index], "index": index}


def main(folder: str | None = None) -> None:
    """Write the file and say whether its SHA-256 is the one that the book expects."""
    buffer = BytesIO()
    np.savez(buffer, **select(*load_split("t10k", folder)))
    write_whole(DEMO_FILE, buffer.getvalue())
    digest = hashlib.sha256(DEMO_FILE.read_bytes()).hexdigest()
    if digest != DEMO_SHA256:
        sys.exit(f"error: {DEMO_FILE}: SHA-256 is {digest}, expected {DEMO_SHA256}; is this the original test split?")
    print(f"{DEMO_FILE}: as expected, SHA-256 {digest}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
