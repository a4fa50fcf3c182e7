"""The embedded CLIP: a plain Hugging Face checkpoint, and beside it the recipe that made it."""
