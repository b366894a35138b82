"""A model whose rows grow by different numbers of tokens: its cache, its masks, what is wrapped around it."""
