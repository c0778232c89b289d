"""Trained networks in forms that need neither their run folder nor this package."""
