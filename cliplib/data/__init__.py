"""Images: one image, a folder of them, and a cache of what is computed of them."""
