"""Clip embeddings."""
