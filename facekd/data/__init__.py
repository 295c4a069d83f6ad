"""Where training images come from: RecordIO packs, image folders, generated faces."""
