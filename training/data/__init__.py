"""Series and texts, read from files, made up, and cut into batches."""
