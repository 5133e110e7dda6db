"""Process-level helpers: CPU count, malloc, threads, atomic files. Nothing about segmentation."""
