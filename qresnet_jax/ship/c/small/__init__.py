"""The profile `small`: little memory, for microcontrollers."""
