"""Batches of the loader as what the network takes, on the device."""
