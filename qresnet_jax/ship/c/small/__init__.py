"""The profile `small` of the C export, which takes little memory and is for microcontrollers."""
