"""Names for the arrays that the modules hand around."""

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Features = NDArray[np.float32]
