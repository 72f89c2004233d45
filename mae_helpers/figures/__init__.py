"""Every plot of the book, a module a concept: tidy data in, axes out, nothing computed."""
