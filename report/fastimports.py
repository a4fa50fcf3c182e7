"""Imported before all else: it keeps out what takes long to import, and is not used."""

import sys

# jsonschema, which checks notebooks, would compile a grammar of international addresses
# as it is imported: more than a second. Without it these are not checked; no notebook
# has a field for one.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
