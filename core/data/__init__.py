"""Label spaces and datasets on disk. Training-time caching and augmentation belong to `training.data`."""
