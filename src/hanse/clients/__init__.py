"""The client side of an app: what a user writes (`App`, clients, `site`) and how one task is executed with it."""
