"""Where the rows of data lie and how they arrive: whole, in blocks, batch by batch, over devices or processes."""
