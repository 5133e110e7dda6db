"""Label spaces and data sets on disk. No training-time caching or augmentation."""
