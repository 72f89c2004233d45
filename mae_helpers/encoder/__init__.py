"""Any Vision Transformer: one batch through its blocks, statistics in one pass, weights found, verified and loaded."""
