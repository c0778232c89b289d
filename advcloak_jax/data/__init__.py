"""Faces in: sources, splits by identity and batch order."""
