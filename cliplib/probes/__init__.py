"""Light classifiers on frozen features."""
