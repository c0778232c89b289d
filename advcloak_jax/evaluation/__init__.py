"""Protection, verification and quality measured."""
