"""Other projects' models as ours, and ours where another library expects its own."""
