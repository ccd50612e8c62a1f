"""What a run measures and says while it trains: its diagnostics, the lines of `metrics.jsonl`, its log and progress."""
