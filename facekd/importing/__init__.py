"""Imports what users have from other trainers: weights of face networks, classifiers, and training configurations."""
