"""Pages in memory: the replacement policy and the page table of the buffer pool, as plain code."""
