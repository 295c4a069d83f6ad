"""Does from Python what the commands do; the names of `facekd`, such as `facekd.load_model`, come from here."""
