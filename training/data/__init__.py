"""Data for training: scanning, caching, augmentation and loading."""
