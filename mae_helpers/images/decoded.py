"""Images decoded once: their bytes at the model's input size, kept on disk in blocks that all chapters share."""

import hashlib
import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

import numpy as np

from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.files import WAIT, claim, write_whole

BLOCK = 64  # images of one file: 10 MB at 224 px


@dataclass
class Blocks:
    """The decoded bytes of an image set, (H, W, 3) by row; a block is decoded by several threads when first asked for."""

    images: ImageSet
    folder: Path
    workers: int
    opened: dict[int, np.ndarray] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def row(self, row: int) -> np.ndarray:
        """The bytes of one image."""
        with self.lock:
            number = row // BLOCK
            if number not in self.opened:
                self.opened[number] = self._open(number)
            return self.opened[number][row % BLOCK]

    def _open(self, number: int) -> np.ndarray:
        path = self._path(number)
        if not path.exists():
            with (
                claim([path.with_suffix(".lock")], WAIT) or nullcontext()
            ):  # another chapter that decodes it is waited for
                if not path.exists():
                    self._decode(number)
        return self._read(number)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npy"

    def _rows(self, number: int) -> range:
        return range(number * BLOCK, min((number + 1) * BLOCK, len(self.images)))

    def _read(self, number: int) -> np.ndarray:
        expected = (len(self._rows(number)), self.images.input.size, self.images.input.size, 3)
        try:
            block = np.load(self._path(number), mmap_mode="r", allow_pickle=False)
            if not isinstance(block, np.ndarray):  # a zip of arrays is opened too, whatever its name
                raise ValueError("it holds several arrays")
            if block.shape != expected or block.dtype != np.uint8:
                raise ValueError(f"it holds {block.dtype} {block.shape}, not bytes {expected}")
        except Exception as error:  # NumPy lets through what zipfile, tokenize and others say of damaged bytes
            warnings.warn(f"{self._path(number)}: not a whole block of images ({error}); decoded again", stacklevel=4)
            self._decode(number)
            return self._read(number)
        return block

    def _decode(self, number: int) -> None:
        with ThreadPoolExecutor(self.workers) as pool:
            block = np.stack(list(pool.map(lambda row: np.asarray(self.images.image(row)), self._rows(number))))
        buffer = BytesIO()
        np.save(buffer, block)
        write_whole(self._path(number), buffer.getvalue())


def decoded(images: ImageSet, folder: Path, workers: int = 1) -> ImageSet:
    """The same images, each file decoded and resized once: what was decoded lies in `folder`, keyed by files and size.

    Images that are no files, such as the demo's, come back as they are.
    """
    if images.source is None or images.source.source in ("bundled", "digits"):
        return images
    settings = images.input.model_dump(include={"size", "resize"})
    key = json.dumps([images.state, settings, list(images.ids)])
    blocks = Blocks(images, folder / hashlib.sha256(key.encode()).hexdigest()[:16], workers)
    return replace(images, decoded=blocks.row)
