"""The embedded CLIP: a plain checkpoint, and beside it the recipe that made it."""
