"""Process-level utilities: CPU count, malloc, threads and atomic files. Nothing here knows about segmentation."""
