"""What a mode of the command line does."""
