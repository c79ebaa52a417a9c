"""Side-by-side measurements; each is a module that prints ratios: `python -m benchmarks.NAME`."""
