"""What the file of an image says of itself, without a look at the picture."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cliplib.data.image import ImageSource, file_facts

FIELDS = (
    "format",
    "mode",
    "size",
    "aspect",
    "quality",
    "progressive",
    "resolution",
    "profile",
    "exif",
    "camera",
    "software",
)
"""What a file says of itself: columns of `file_fields`."""


def file_fields(images: Sequence[ImageSource]) -> pd.DataFrame:
    """Return what the files of n images say of themselves: `FIELDS`, a row for each.

    Size is "width × height", aspect width by height, quality the mean of JPEG's first
    quantisation table, 0 for other formats; the others are texts, "" where a file says
    nothing. An OSError names an image that cannot be read.
    """
    fields = pd.DataFrame([file_facts(image) for image in images])
    fields["size"] = fields["width"].astype(str) + " × " + fields["height"].astype(str)
    fields["aspect"] = (fields["width"] / fields["height"]).round(2)
    fields["quality"] = fields["quantisation"].round(1)
    return fields[[*FIELDS]]
