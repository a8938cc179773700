"""What is known of a running search: its records, its pace, and when it ends."""
