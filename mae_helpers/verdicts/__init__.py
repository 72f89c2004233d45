"""The paper's claims and published numbers, the rules, and what a run's tables say of them."""
