"""Reads command lines and configurations, with errors that name the option and what was meant."""
