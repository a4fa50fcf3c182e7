"""Applications: a decision aid and its verdict."""
