"""The measures behind the book "Robust Representation Learning in Masked Autoencoders, re-computed"."""

import os

# Read when PyTorch is imported: OpenMP's threads sleep while they wait, instead of spinning on cores that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")  # the same for Intel's OpenMP: milliseconds that they spin

__version__ = "0.1.0"
