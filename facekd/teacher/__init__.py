"""Opens, caches and completes the models that students learn from."""
