"""AdvCloak in JAX: person-specific privacy cloaks against face recognition."""

__version__ = "0.1.0"
