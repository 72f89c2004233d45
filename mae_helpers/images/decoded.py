"""Images decoded once: their bytes at the model's input size, in one memory-mapped file that all chapters share."""

import hashlib
import json
import math
import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.lib.format import open_memmap

from mae_helpers.images.sets import ImageSet
from mae_helpers.profile.files import WAIT, StorageError, claim, storage_error

BLOCK = 64  # images that are decoded at once: 10 MB at 224 px


class Decoded:
    """The bytes of an image set, (H, W, 3) by row; a block is decoded by several threads when first asked for.

    The file has a record a block: its bytes, then their checksum, 0 until the block was written. So what a killed process
    left half-written is no block.
    """

    def __init__(self, images: ImageSet, path: Path, workers: int):
        self.images, self.path, self.workers = images, path, workers
        self.kind = np.dtype([("bytes", np.uint8, (BLOCK, *images.input.shape, 3)), ("checksum", "<u4")])
        self.shape = (math.ceil(len(images) / BLOCK),)
        self.whole: set[int] = set()
        self.lock = threading.Lock()

    def row(self, row: int) -> np.ndarray:
        """The bytes of one image."""
        with self.lock:
            number, place = divmod(row, BLOCK)
            if number not in self.whole and not self._holds(number):
                # another chapter that decodes it is waited for
                with claim([self.path.with_suffix(".lock")], WAIT) or nullcontext():
                    if not self._holds(number, warn=True):
                        self._write(number)
            return self.blocks["bytes"][number, place]

    def _holds(self, number: int, warn: bool = False) -> bool:
        """Whether the file, looked at afresh, has this block whole; one of another kind is taken away where it `warn`s."""
        if not self.path.exists():
            return False
        try:
            self.blocks = open_memmap(self.path, mode="r")
            if (self.blocks.dtype, self.blocks.shape) != (self.kind, self.shape):
                raise ValueError(f"it holds {self.blocks.dtype} {self.blocks.shape}")
        except Exception as error:  # NumPy lets through what tokenize and others say of damaged bytes
            if warn:
                warnings.warn(f"{self.path}: not a file of these images ({error}); decoded again", stacklevel=4)
                self.path.unlink()
            return False
        content, checksum = self.blocks[number]
        if crc32(content) == checksum:
            self.whole.add(number)
        elif checksum and warn:
            warnings.warn(f"{self.path}: block {number} is not whole; decoded again", stacklevel=4)
        return number in self.whole

    def _write(self, number: int) -> None:
        """Decode a block and write it; not through the map, where a full disk would kill the process."""
        rows = range(number * BLOCK, min((number + 1) * BLOCK, len(self.images)))
        record = np.zeros((), self.kind)
        with ThreadPoolExecutor(self.workers) as pool:
            record["bytes"][: len(rows)] = list(pool.map(lambda row: np.asarray(self.images.image(row)), rows))
        record["checksum"] = crc32(record["bytes"])
        part = self.path.with_suffix(f".{os.getpid()}.part")
        try:
            if not self.path.exists():
                open_memmap(part, mode="w+", dtype=self.kind, shape=self.shape)  # takes no room but for what is written
                part.replace(self.path)
            offset = open_memmap(self.path, mode="r").offset + number * self.kind.itemsize
            with self.path.open("r+b") as file:
                file.seek(offset)
                file.write(record.tobytes())
        except OSError as error:
            raise storage_error(error, self.path, record.nbytes) from error
        finally:
            part.unlink(missing_ok=True)
        if not self._holds(number):
            raise StorageError(f"{self.path}: what was written there reads otherwise; choose another folder")


def decoded(images: ImageSet, folder: Path, workers: int = 1) -> ImageSet:
    """The same images, each file decoded and resized once: what was decoded lies in `folder`, keyed by files and size.

    Images that are no files, such as the demo's, come back as they are.
    """
    if images.source is None or images.source.source in ("bundled", "digits"):
        return images
    key = json.dumps([images.state, images.input.size, images.input.resize, list(images.ids)])
    found = Decoded(images, folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy", workers)
    return replace(images, pixels=lambda row: found.row(row).astype(np.float32) / 255)
