"""How fast, and at what memory: each row of `results.csv` is a pair of functions that must give the same results."""
