"""What this machine can do: its memory bandwidth, processor and threads."""
