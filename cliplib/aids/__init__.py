"""Decision aids: classifiers that abstain where they are not sure."""
