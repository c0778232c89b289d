"""Whole photos: the faces in them, which of them is the person, and masks from a face's crop back onto the photo."""
