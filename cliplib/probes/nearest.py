"""The nearest-neighbour classifier, which only remembers its training rows."""

from __future__ import annotations

from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def nearest_neighbour() -> Pipeline:
    """Return a classifier that predicts the class of the most similar training row.

    Similarity is the cosine of standardised rows. The classifier shows how accurate
    memory alone is: it learns nothing, and is right where a test image resembles a
    training image of its class, such as a copy.
    """
    nearest = KNeighborsClassifier(1, metric="cosine")
    return make_pipeline(StandardScaler(), nearest)
