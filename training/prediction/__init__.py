"""The predict command's parts: jobs, manifest, video."""
