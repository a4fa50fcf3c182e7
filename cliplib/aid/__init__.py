"""Applications: what is built from the library, and nothing of the library imports."""
