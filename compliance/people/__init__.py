"""People with their posts, and campaigns in which officers decide whether each post is still needed."""
