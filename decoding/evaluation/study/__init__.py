"""`tradeoff evaluate`: texts of many prompts, judged and compared at matched rejection."""
