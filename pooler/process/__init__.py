"""The process: its ports and signals, its account and its end, and its successor."""
