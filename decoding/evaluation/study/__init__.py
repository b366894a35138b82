"""`tradeoff evaluate`: texts of many prompts, judged, compared at matched rejection, with what the numbers can settle."""
