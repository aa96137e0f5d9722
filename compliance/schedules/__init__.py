"""Reports that come by themselves: what is due, when, to whom, and what became of each."""
