"""Errors, files, signals, console, devices, distributed, random numbers."""
