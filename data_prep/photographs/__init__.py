"""data_prep/photographs."""
