"""How fast, and at what memory: each row of `results.csv` is a pair of functions that must give the same results."""

import mae_helpers  # noqa: F401  # before PyTorch, for which it says how threads wait
