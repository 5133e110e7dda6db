"""Data pipeline of training: scan, cache, augmentation and loader; reading datasets is in `core.data`."""
