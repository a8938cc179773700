"""The exact allocator: the least sensitive widths, blocks and precision within limits."""
