"""Unanswerable questions made from answerable ones: python -m squad.augment FILE shows twenty of each kind."""

from squad.augment.ways import augment, leave_out, unanswerable

__all__ = ["augment", "leave_out", "unanswerable"]
