"""The evaluation harness: protocols, scoring and reports. Depends on facekd, never the reverse."""
