"""Decides which image comes when, and brings batches to the device."""
