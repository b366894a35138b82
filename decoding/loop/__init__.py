"""The loop: what a call is asked for, its rounds, and the account of its texts."""
