"""Lifts: the rules that give an image network time."""
