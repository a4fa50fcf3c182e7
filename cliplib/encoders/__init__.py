"""From pixels and texts to features: CLIP, frozen, and any other vision model."""
