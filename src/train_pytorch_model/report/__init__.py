"""The report of a finished training: one page, with the pictures and tables that it is made of beside it."""
