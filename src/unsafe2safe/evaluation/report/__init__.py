"""The report of an evaluation: one self-contained page, and its tables for papers."""
