"""The functions as a platform invokes them; see `contract`."""
