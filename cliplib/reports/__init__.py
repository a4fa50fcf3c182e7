"""Applications: a decision aid, and the report on a folder with its verdict."""
