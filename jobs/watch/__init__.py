"""Watch: what is committed, what is running, and what the last run did."""
