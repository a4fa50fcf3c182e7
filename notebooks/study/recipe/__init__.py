"""How the embedded model was made and checked."""
