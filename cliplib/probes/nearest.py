"""The nearest neighbour: a classifier that only remembers its training rows."""

from __future__ import annotations

from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def nearest_neighbour() -> Pipeline:
    """Return a classifier that names the class of the most similar training row.

    Similarity is the cosine of standardised rows. It shows how far memory alone goes:
    nothing is learned, so that it is accurate where a test image resembles a training
    image, such as its copy.
    """
    nearest = KNeighborsClassifier(1, metric="cosine")
    return make_pipeline(StandardScaler(), nearest)
