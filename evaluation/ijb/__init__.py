"""evaluation/ijb."""
