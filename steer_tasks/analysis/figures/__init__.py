"""Figures of a report, one file each: from findings or records to an inline SVG. matplotlib comes when one is drawn."""
