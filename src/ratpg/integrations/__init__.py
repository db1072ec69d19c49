"""Bridges to other tools, at the edge: they may import anything, and nothing imports them."""
