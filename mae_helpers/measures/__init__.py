"""What is measured, each a pure function of tokens, attention, embeddings or predictions."""
