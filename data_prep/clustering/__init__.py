"""Groups images by the people that a model takes them for, and compares the groups with known identities."""
