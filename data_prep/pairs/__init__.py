"""data_prep/pairs."""
