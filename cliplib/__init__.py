"""Frozen CLIP features, light classifiers on top, and a careful evaluation."""

import lazy_loader

__version__ = "0.4.0"

# The public names stand in __init__.pyi, for type checkers as well. Their modules are
# imported when a name is asked for: torch alone takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
