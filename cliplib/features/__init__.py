"""Feature tables: features with labels, groups and splits, and near-duplicates."""
