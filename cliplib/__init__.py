"""Frozen CLIP features, light classifiers on top, and a careful evaluation."""

import lazy_loader

__version__ = "0.4.0"

# The public names are listed in __init__.pyi, which type checkers read, too. A name's
# module is imported when the name is first used, since torch alone takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
