"""data_prep/inspection."""
