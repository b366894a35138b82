"""One script per question about speed, memory or the paper; not shipped."""
