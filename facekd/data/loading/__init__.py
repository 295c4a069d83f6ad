"""Decides which image comes when, and brings batches of them to the device."""
