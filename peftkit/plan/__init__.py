"""What a run will take, before it starts: memory, time, and what to change."""
