"""The command line, `hanse …`: one module a group of commands, loaded when one of them is called."""
