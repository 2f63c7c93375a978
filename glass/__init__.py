"""GLASS and TIGER: generative recommendation over long user histories."""
