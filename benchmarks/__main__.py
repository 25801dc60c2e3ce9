"""``python -m benchmarks``: says which benchmarks there are."""

print("python -m benchmarks.jobs       what a job costs, next to the peers")
print("python -m benchmarks.mapreduce  what a map_reduce costs, next to the peers")
print("Each takes --help.")
