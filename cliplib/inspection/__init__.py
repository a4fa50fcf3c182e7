"""Beside classification: words, search, heat maps, file traces."""
