"""The embedded small CLIP: a plain Hugging Face checkpoint in this folder, and the script that trained it."""
