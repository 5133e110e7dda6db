"""Prediction for files: planning output paths, the manifest of results, images and videos. No flags."""
