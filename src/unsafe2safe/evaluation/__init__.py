"""Measuring runs and folders beside reference rows, and the report of it."""
