"""What a bug report needs, and what commonly is wrong on a machine: from what was found, a `Check` that says so."""
