"""What a run and a network look like: layer table, pictures, `report.md`, comparison of runs."""
