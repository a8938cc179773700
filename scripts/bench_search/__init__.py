"""Parts of `scripts/bench_search.py`: the methods, what counts as compute, what is shown."""
