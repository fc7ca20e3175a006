"""Where a table comes from: files and frames of many kinds, read as arrays by name."""
