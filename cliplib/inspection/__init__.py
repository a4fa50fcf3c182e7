"""Beside classification: words, search, heat maps, shortcuts and subgroups."""
