"""`make pocket-report`: measures the shipped pocket base and writes the figures and a page with its pictures."""
