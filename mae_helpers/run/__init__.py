"""From chapters to the book: tables, notebooks, the site, and `python -m mae_helpers.run`."""
