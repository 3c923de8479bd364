"""Files: the file seam, virtual files over few descriptors, and the storage manager."""
