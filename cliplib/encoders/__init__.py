"""Frozen encoders of images, and of texts: CLIP, and any other vision model."""
