"""Several criteria and sizes on the same data: which criterion, and how far can one go?"""
