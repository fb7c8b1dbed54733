"""What a person's machine does: its identity, submitting, following, fetching results."""
