"""The suite's driver. run.py is where to start reading."""
