"""A federation without a server: functions that are called when there is news, and a state machine that waits."""
