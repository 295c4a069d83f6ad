"""Joins a student with its teacher and their losses: builds them, computes the losses, compares both at the end."""
