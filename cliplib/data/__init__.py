"""Images from any source: a folder, a table or a data set, checked and cached."""
