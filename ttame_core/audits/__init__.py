"""Audits: their record, comparisons, gates and history."""
