"""Several processes and nodes: process group, launcher, rendezvous, signals."""
