"""Networks of other tools: read from their files, written to them."""
