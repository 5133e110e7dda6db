"""What a dataset contains before anyone trains on it: scan of its splits, and figures."""
