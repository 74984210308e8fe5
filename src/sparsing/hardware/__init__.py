"""Properties of the machine that limit decoding speed: memory bandwidth, cache size, processor and threads."""
