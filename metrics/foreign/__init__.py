"""Figures read over a console's wire, of a pooler that may not be ours."""
