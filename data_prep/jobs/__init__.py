"""data_prep/jobs."""
