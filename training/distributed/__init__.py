"""Runs with several processes and nodes: context and collectives, launcher, rendezvous and signals; no training code."""
