"""Unanswerable questions made from answerable ones: python -m squad.augment FILE shows twenty."""

from squad.augment.ways import augment, unanswerable

__all__ = ["augment", "unanswerable"]
