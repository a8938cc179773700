"""Parts of the latency benchmark."""
