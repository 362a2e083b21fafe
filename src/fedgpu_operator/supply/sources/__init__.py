"""One module per ecosystem: which labels it puts on a node, and what they say of its GPUs."""
