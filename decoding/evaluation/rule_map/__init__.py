"""`tradeoff map`: every rule's knob swept on the same positions, under the front that no rule gets below."""
