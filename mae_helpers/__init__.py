"""The measures behind the book "Robust Representation Learning in Masked Autoencoders, re-computed"."""

__version__ = "0.1.0"
