"""Many models under many perturbations: cells, what is recorded in one, and the workers that compute them."""
