"""The figures that the project promises, measured: `make bench`, or `python benchmarks/run.py NAME ...`."""
