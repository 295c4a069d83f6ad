"""data_prep/ijb_sets."""
