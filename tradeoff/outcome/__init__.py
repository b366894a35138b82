"""What a rule does, exactly: at one position, in a drafted block, with several drafts, at many positions."""
