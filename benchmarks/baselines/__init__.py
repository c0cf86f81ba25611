"""What a careful reader of the published code would write first: the yardstick of the benchmarks."""
