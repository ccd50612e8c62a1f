"""Reports on runs and networks: `report.md`, pictures, layer tables, and comparisons of runs."""
