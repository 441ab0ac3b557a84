"""Audits: opening of specs, records, comparisons, gates and history."""
